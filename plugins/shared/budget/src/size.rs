//! A size that the output is to have, in the place of a level.

use qhost_plugin_api::{
    documents::Options,
    sdk::{Failure, Result},
};

/// How large the files of weights may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// So many bytes together.
    Bytes(u64),
    /// So many bits for each weight of the model, everything counted that is in the files: as reports have it.
    BitsPerWeight(f64),
}

impl Size {
    /// What the options say, if anything, and what a level has behind its bits (`3.5bpw-g64`), as it is read by `rest`.
    ///
    /// # Errors
    /// Fails with kind `USAGE` when two options say the size.
    pub fn of<T>(options: &Options, rest: impl Fn(&str) -> Option<T>) -> Result<Option<(Self, Option<T>)>> {
        let level = options.level.as_deref();
        let of_level = level.and_then(|level| average(level, rest));
        let asked = match (of_level, options.max_size) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    "--max-size and a level in bits per weight both say how large the output is",
                )
                .hint("leave one of them out"));
            }
            (Some(asked), None) => Some(asked),
            (None, Some(bytes)) => {
                if let Some(level) = level {
                    return Err(Failure::usage(format!(
                        "--level {level} says the bits, which --max-size would choose"
                    ))
                    .hint("leave one of them out; --group-size says the groups"));
                }
                Some((Self::Bytes(bytes), None))
            }
            (None, None) => None,
        };
        if let (Some((target, _)), Some(bits)) = (&asked, options.bits) {
            return Err(Failure::usage(format!("--bits {bits} says the bits, which {} would choose", target.flag()))
                .hint("leave one of them out"));
        }
        Ok(asked)
    }

    /// The option that says it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Bytes(_) => "--max-size",
            Self::BitsPerWeight(_) => "--level",
        }
    }

    /// The most bytes, for a model with so many weights.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size that is rounded down"
    )]
    #[must_use]
    pub fn bytes(self, weights: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::BitsPerWeight(bits) => (bits * weights as f64 / 8.0) as u64,
        }
    }

    /// As a level has it, for a model with so many weights: `3.5bpw`.
    #[must_use]
    pub fn name(self, weights: u64) -> String {
        match self {
            Self::BitsPerWeight(bits) => format!("{bits}bpw"),
            Self::Bytes(bytes) => format!("{}bpw", bits_per_weight(bytes, weights)),
        }
    }
}

/// Bits for each of so many weights, to two places.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
#[must_use]
pub fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    let bits = bytes as f64 * 8.0 / weights.max(1) as f64;
    (bits * 100.0).round() / 100.0
}

/// What a level such as `3.5bpw` or `3.5bpw-g64` says.
fn average<T>(level: &str, rest: impl Fn(&str) -> Option<T>) -> Option<(Size, Option<T>)> {
    let level = level.to_ascii_lowercase();
    let (bits, group) = level.split_once("bpw")?;
    let bits = bits.parse().ok().filter(|bits: &f64| bits.is_finite() && *bits > 0.0)?;
    let group = match group.strip_prefix('-') {
        Some(group) => Some(rest(group)?),
        None if group.is_empty() => None,
        None => return None,
    };
    Some((Size::BitsPerWeight(bits), group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_in_bits_per_weight_may_say_its_groups() {
        let groups = |text: &str| match text {
            "channel" => Some(None),
            text => text.strip_prefix('g')?.parse::<u64>().ok().filter(|size| *size > 0).map(Some),
        };
        let of = |level: &str| Size::of(&Options { level: Some(level.into()), ..Options::default() }, groups).unwrap();
        assert_eq!(of("3.5bpw"), Some((Size::BitsPerWeight(3.5), None)));
        assert_eq!(of("4BPW-g64"), Some((Size::BitsPerWeight(4.0), Some(Some(64)))));
        assert_eq!(of("2.75bpw-channel"), Some((Size::BitsPerWeight(2.75), Some(None))));
        for other in ["bpw", "-1bpw", "0bpw", "nanbpw", "3bpwx", "3bpw-", "3bpw-g0", "4bit-g128"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn sizes_are_rounded_down_and_named_by_bits() {
        assert_eq!(Size::BitsPerWeight(3.5).bytes(1001), 437);
        assert_eq!(Size::Bytes(437).name(1000), "3.5bpw");
        assert_eq!(Size::BitsPerWeight(3.5).name(1), "3.5bpw");
    }

    #[test]
    fn two_sizes_or_a_size_and_bits_contradict() {
        let level = |level: &str| Some(level.to_owned());
        for options in [
            Options { level: level("3bpw"), max_size: Some(1), ..Options::default() },
            Options { level: level("4bit-g128"), max_size: Some(1), ..Options::default() },
            Options { bits: Some(4), max_size: Some(1), ..Options::default() },
            Options { bits: Some(4), level: level("3bpw"), ..Options::default() },
        ] {
            let failure = Size::of(&options, |_| Some(())).unwrap_err();
            assert!(failure.hint.contains("leave one of them out"), "{}", failure.message);
        }
    }
}
