//! The levels of GPTQ, by bits and group size.

use qhost_plugin_api::{
    documents::{FormatDescription, LevelDescription},
    sdk::{Failure, Result},
};

use crate::options;

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: &str = "4bit-g128";

/// The widths of codes that readers of the format know.
pub(crate) const BITS: [u32; 4] = [2, 3, 4, 8];

/// Bits, weights in a group (0 is a whole row), and a line about it.
const LEVELS: [(u32, u64, &str); 10] = [
    (2, 32, "2 bits: smallest, clear loss"),
    (2, 128, "2 bits, larger groups"),
    (3, 32, "3 bits: small, moderate loss"),
    (3, 128, "3 bits, larger groups"),
    (4, 32, "4 bits: low loss"),
    (4, 128, "4 bits, larger groups: the usual choice"),
    (4, 0, "4 bits, one scale per output channel"),
    (8, 32, "8 bits: loss close to nothing"),
    (8, 128, "8 bits, larger groups"),
    (8, 0, "8 bits, one scale per output channel"),
];

/// Bits and groups. Those that are listed are the usual ones; any group size has a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// Bits of a code.
    pub(crate) bits: u32,
    /// Inputs that share a scale; all of a row if absent.
    pub(crate) group_size: Option<u64>,
}

impl Level {
    /// The level of a name such as `4bit-g128` or `8bit-channel`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let parsed = name.to_ascii_lowercase().split_once("bit-").and_then(|(bits, group)| {
            let bits = bits.parse().ok().filter(|bits| BITS.contains(bits))?;
            Some(Self { bits, group_size: group_size(group)? })
        });
        parsed.ok_or_else(|| {
            Failure::unsupported(format!("gptq has no level `{name}`"))
                .hint("levels are bits and group size: 4bit-g128, 3bit-g64, 8bit-channel, … with 2, 3, 4 or 8 bits; or the size of the output: 3.5bpw, 4.25bpw-g64")
        })
    }

    /// Its name.
    pub(crate) fn name(self) -> String {
        format!("{}bit-{}", self.bits, group_name(self.group_size))
    }
}

/// Groups in the name of a level: `g128`, or `channel` for whole rows.
pub(crate) fn group_name(group_size: Option<u64>) -> String {
    group_size.map_or_else(|| "channel".to_owned(), |size| format!("g{size}"))
}

/// The groups that such a name means; none if it means nothing.
#[expect(clippy::option_option, reason = "whole rows have no size, and a name may have no meaning")]
pub(crate) fn group_size(name: &str) -> Option<Option<u64>> {
    match name.strip_prefix('g') {
        Some(size) => Some(Some(size.parse().ok().filter(|size| *size > 0)?)),
        None => (name == "channel").then_some(None),
    }
}

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    let levels = LEVELS.into_iter().map(|(bits, group, summary)| {
        let level = Level { bits, group_size: Some(group).filter(|group| *group > 0) };
        // A group has a 16-bit scale and a zero of the weights' width.
        let overhead = level.group_size.map_or(0.0, |_| f64::from(16 + bits) / lossless(group));
        LevelDescription::new(level.name(), summary, f64::from(bits) + overhead)
    });
    let mut format = FormatDescription::new("gptq", levels.collect());
    format.default_level = Some(DEFAULT_LEVEL.into());
    format.options = options::descriptions();
    format
}

/// A group size of the list.
fn lossless(group: u64) -> f64 {
    f64::from(u32::try_from(group).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_level_is_known_by_its_name() {
        let levels = description().levels;
        assert_eq!(levels.len(), LEVELS.len());
        for level in levels {
            assert_eq!(Level::named(&level.id).unwrap().name(), level.id);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "4bit", "4bit-g0", "4bit-g", "4bit-gx", "5bit-g32", "bit-g32", "4bit-row", "Q4_K_M"] {
            assert!(Level::named(name).is_err(), "{name}");
        }
    }
}
