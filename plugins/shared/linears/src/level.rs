//! Levels that are bits and a group size: `4bit-g128`, `8bit-channel`.

use qhost_plugin_api::{
    documents::Options,
    sdk::{Failure, Result},
};

/// Bits and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Bits of a code.
    pub bits: u32,
    /// Inputs that share a scale; all of a row if absent.
    pub group_size: Option<u64>,
}

impl Level {
    /// The level of a name such as `4bit-g128` or `8bit-channel` with one of these widths; none if it means nothing.
    #[must_use]
    pub fn parse(name: &str, widths: &[u32]) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (bits, group) = name.split_once("bit-")?;
        let bits = bits.parse().ok().filter(|bits| widths.contains(bits))?;
        Some(Self { bits, group_size: group_size(group)? })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}bit-{}", self.bits, group_name(self.group_size))
    }

    /// The same with what `--bits` and `--group-size` say, which must not contradict a level that was named.
    ///
    /// Where `is_named`, `--level` says all of this level. Which widths there are is for the format to check.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for a contradiction, and for groups of no weights.
    pub fn with_flags(self, options: &Options, is_named: bool) -> Result<Self> {
        let group_size = match options.group_size {
            None => self.group_size,
            Some(-1) => None,
            Some(size) => Some(u64::try_from(size).ok().filter(|size| *size > 0).ok_or_else(|| {
                Failure::usage(format!("a group of {size} weights is none"))
                    .about("--group-size")
                    .hint("take a positive number such as 128, or -1 for whole rows")
            })?),
        };
        let said = Self { bits: options.bits.unwrap_or(self.bits), group_size };
        match options.level.as_ref().filter(|_| is_named) {
            Some(named) if said != self => {
                let message = format!("--level {named} contradicts --bits or --group-size");
                Err(Failure::usage(message).hint("leave one of them out"))
            }
            _ => Ok(said),
        }
    }
}

/// Groups in the name of a level: `g128`, or `channel` for whole rows.
#[must_use]
pub fn group_name(group_size: Option<u64>) -> String {
    group_size.map_or_else(|| "channel".to_owned(), |size| format!("g{size}"))
}

/// The groups that such a name means; none if it means nothing.
#[must_use]
pub fn group_size(name: &str) -> Option<Option<u64>> {
    match name.strip_prefix('g') {
        Some(size) => Some(Some(size.parse().ok().filter(|size| *size > 0)?)),
        None => (name == "channel").then_some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bits_and_groups() {
        for name in ["4bit-g128", "8bit-channel", "4bit-g1"] {
            assert_eq!(Level::parse(name, &[4, 8]).map(Level::name).as_deref(), Some(name));
        }
        for name in ["", "4bit", "4bit-g0", "4bit-g", "4bit-gx", "5bit-g32", "bit-g32", "4bit-row"] {
            assert_eq!(Level::parse(name, &[4, 8]), None, "{name}");
        }
    }

    #[test]
    fn flags_replace_what_no_level_was_named_for() {
        let level = Level { bits: 4, group_size: Some(128) };
        let options = Options { group_size: Some(-1), ..Options::default() };
        assert_eq!(level.with_flags(&options, true).unwrap(), Level { bits: 4, group_size: None });
        let options = Options { level: Some(level.name()), ..options };
        assert!(level.with_flags(&options, true).unwrap_err().message.contains("contradicts"));
        assert_eq!(level.with_flags(&options, false).unwrap().group_size, None);
    }
}
