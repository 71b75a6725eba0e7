//! The levels of GPTQ, by bits and group size.

use qhost_linears::Level;
use qhost_plugin_api::{
    documents::{Encoding, EncodingPattern, FormatDescription, LevelDescription},
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

/// The level of a name; those that are listed are the usual ones, and any group size has one.
pub(crate) fn level(name: &str) -> Result<Level> {
    Level::parse(name, &BITS).ok_or_else(|| {
        Failure::unsupported(format!("gptq has no level `{name}`"))
            .hint("levels are bits and group size: 4bit-g128, 3bit-g64, 8bit-channel, … with 2, 3, 4 or 8 bits; or the size of the output: 3.5bpw, 4.25bpw-g64")
    })
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
    format = format.common_options(["bits", "group_size", "symmetric", "act_order", "effort", "max_size"]);
    format.default_level = Some(DEFAULT_LEVEL.into());
    format.options = options::descriptions();
    format.takes = vec![
        EncodingPattern::new(Encoding::AFFINE).bits(1..=8).zeros(0, 255),
        // With bits to spare for finer steps.
        EncodingPattern::new(Encoding::MINIMUM).bits([5]).zeros(0, 31).permuted(false),
    ];
    format.gives = vec![EncodingPattern::new(Encoding::AFFINE).bits(2..=8).zeros(0, 255)];
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
        for listed in levels {
            assert_eq!(level(&listed.id).unwrap().name(), listed.id);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "4bit", "4bit-g0", "4bit-g", "4bit-gx", "5bit-g32", "bit-g32", "4bit-row", "Q4_K_M"] {
            assert!(level(name).is_err(), "{name}");
        }
    }
}
