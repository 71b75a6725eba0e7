//! The levels of AWQ: 4 bits, by group size.

use qhost_plugin_api::documents::{FormatDescription, LevelDescription};

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    // A group has a 16-bit scale and a 4-bit zero beside its weights.
    let levels = vec![
        LevelDescription::new("4bit-g32", "groups of 32 weights: most accurate", 4.0 + 20.0 / 32.0),
        LevelDescription::new("4bit-g64", "groups of 64 weights", 4.0 + 20.0 / 64.0),
        LevelDescription::new("4bit-g128", "groups of 128 weights: the usual choice", 4.0 + 20.0 / 128.0),
        LevelDescription::new("4bit-channel", "one scale per output channel: smallest", 4.0),
    ];
    let mut format = FormatDescription::new("awq", levels);
    format.default_level = Some("4bit-g128".into());
    format
}
