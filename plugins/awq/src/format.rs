//! The levels of AWQ: 4 bits, by group size.

use qhost_linears::Level;
use qhost_plugin_api::documents::{Encoding, EncodingPattern, FormatDescription, LevelDescription};

use crate::options;

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: Level = Level { bits: 4, group_size: Some(128) };

/// The widths of codes that readers of the format know.
pub(crate) const BITS: [u32; 1] = [4];

/// Weights in a group (0 is a whole row), and a line about it. Any group size has a level; these are the usual ones.
const LEVELS: [(u32, &str); 4] = [
    (32, "groups of 32 weights: most accurate"),
    (64, "groups of 64 weights"),
    (128, "groups of 128 weights: the usual choice"),
    (0, "one scale per output channel: smallest"),
];

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    let levels = LEVELS.into_iter().map(|(group, summary)| {
        let level = Level { bits: 4, group_size: Some(group.into()).filter(|group| *group > 0) };
        // A group has a 16-bit scale and a 4-bit zero beside its weights.
        let overhead = if group > 0 { 20.0 / f64::from(group) } else { 0.0 };
        LevelDescription::new(level.name(), summary, 4.0 + overhead)
    });
    let mut format = FormatDescription::new("awq", levels.collect());
    format = format.common_options(["bits", "group_size", "symmetric", "effort", "max_size"]);
    format.default_level = Some(DEFAULT_LEVEL.name());
    format.options = options::descriptions();
    format.takes = vec![EncodingPattern::new(Encoding::AFFINE).bits(1..=4).zeros(0, 15).permuted(false)];
    format.gives = vec![
        EncodingPattern::new(Encoding::AFFINE).bits([4]).zeros(0, 15).permuted(false),
        EncodingPattern::new(Encoding::MINIMUM).bits([4]).permuted(false),
    ];
    format
}
