//! The levels of GPTQ, by bits and group size.

use qhost_plugin_api::documents::{FormatDescription, LevelDescription};

/// Bits, weights in a group (0 is a whole row), and a line about it.
const LEVELS: [(u32, u32, &str); 10] = [
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

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    let levels = LEVELS.into_iter().map(|(bits, group, summary)| {
        // A group has a 16-bit scale and a zero of the weights' width.
        let group_bits = f64::from(16 + bits);
        let (id, overhead) = match group {
            0 => (format!("{bits}bit-channel"), 0.0),
            _ => (format!("{bits}bit-g{group}"), group_bits / f64::from(group)),
        };
        LevelDescription::new(id, summary, f64::from(bits) + overhead)
    });
    let mut format = FormatDescription::new("gptq", levels.collect());
    format.default_level = Some("4bit-g128".into());
    format
}
