//! The size of shards, as a user writes it.

use qhost_plugin_api::sdk::{Failure, Result};

/// Bytes of weights in a file, unless the user says otherwise: what Hugging Face's libraries take.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Units, the longest names first.
const UNITS: [(&str, u64); 7] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

/// The bytes of `5GB`, `500MB`, `2GiB` or a plain number of bytes.
///
/// # Errors
/// Fails with kind `USAGE` for anything else.
pub fn shard_bytes(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(name, bytes)| Some((lower.strip_suffix(name)?, *bytes)));
    let (digits, unit) = unit.unwrap_or((&lower, 1));
    let number: Option<u64> = digits.trim().parse().ok();
    number.and_then(|number| number.checked_mul(unit)).filter(|bytes| *bytes > 0).ok_or_else(|| {
        Failure::usage(format!("`{text}` is no size of a file"))
            .hint("write a whole number and a unit: 5GB, 500MB, 2GiB")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_or_none() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("2 GiB", 2 << 30), ("100kb", 100_000), ("7", 7), ("9b", 9)] {
            assert_eq!(shard_bytes(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GB", "-1GB", "1.5GB", "0", "99999999999GB", "5XB"] {
            assert!(shard_bytes(text).is_err(), "{text}");
        }
    }
}
