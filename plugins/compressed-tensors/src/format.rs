//! The levels of the format, by bits and group size.

use qhost_linears::Level;
use qhost_plugin_api::{
    documents::{Encoding, EncodingPattern, FormatDescription, LevelDescription},
    sdk::{Failure, Result},
};

use crate::options;

/// The name of the format.
pub(crate) const FORMAT: &str = "compressed-tensors";

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: Level = Level { bits: 4, group_size: Some(128) };

/// The widths of codes; the package knows 1 bit as well, of which no rounding is left.
pub(crate) const BITS: [u32; 7] = [2, 3, 4, 5, 6, 7, 8];

/// Bits, weights in a group (0 is a whole row), and a line about it. Any group size has a level; these are the usual ones.
const LEVELS: [(u32, u32, &str); 11] = [
    (2, 32, "2 bits: smallest, clear loss"),
    (3, 32, "3 bits: small, moderate loss"),
    (3, 128, "3 bits, larger groups"),
    (4, 32, "4 bits: low loss"),
    (4, 128, "4 bits, larger groups: the usual choice (W4A16)"),
    (4, 0, "4 bits, one scale per output channel"),
    (5, 128, "5 bits: very low loss"),
    (6, 128, "6 bits: hardly any loss"),
    (8, 32, "8 bits: loss close to nothing"),
    (8, 128, "8 bits, larger groups"),
    (8, 0, "8 bits, one scale per output channel (W8A16)"),
];

/// The level of a name.
pub(crate) fn level(name: &str) -> Result<Level> {
    Level::parse(name, &BITS).ok_or_else(|| {
        Failure::unsupported(format!("{FORMAT} has no level `{name}`"))
            .hint("levels are bits and group size: 4bit-g128, 3bit-g64, 8bit-channel, … with 2 to 8 bits")
    })
}

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    let levels = LEVELS.into_iter().map(|(bits, group, summary)| {
        let level = Level { bits, group_size: Some(group.into()).filter(|group| *group > 0) };
        // A group has a 16-bit scale, and symmetric codes no zero-point.
        let overhead = if group > 0 { 16.0 / f64::from(group) } else { 0.0 };
        LevelDescription::new(level.name(), summary, f64::from(bits) + overhead)
    });
    let mut format = FormatDescription::new(FORMAT, levels.collect());
    format = format.common_options(["bits", "group_size", "symmetric", "act_order", "effort"]);
    format.default_level = Some(DEFAULT_LEVEL.name());
    format.options = options::descriptions();
    format.takes = vec![
        EncodingPattern::new(Encoding::AFFINE).bits(1..=8).zeros(0, 255),
        // With bits to spare for finer steps.
        EncodingPattern::new(Encoding::MINIMUM).bits([5]).zeros(0, 31).permuted(false),
    ];
    format.gives = vec![EncodingPattern::new(Encoding::AFFINE).bits(2..=8).zeros(0, 255)];
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_level_is_known_by_its_name() {
        for listed in description().levels {
            assert_eq!(level(&listed.id).unwrap().name(), listed.id);
        }
        for name in ["", "4bit", "4bit-g0", "1bit-g32", "9bit-channel", "W4A16", "Q4_K_M"] {
            assert!(level(name).is_err(), "{name}");
        }
    }
}
