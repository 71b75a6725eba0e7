//! What the host itself can check: checkpoints of safetensors.
//!
//! That headers, indexes and lengths are sound is known when one is open.

use qhost_plugin_api::documents::{Check, Numbers};

use crate::source::Checkpoint;

/// The names of files that a tokenizer may be in.
const TOKENIZERS: [&str; 4] = ["tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model"];

/// The checks of an open checkpoint.
pub(super) fn check(checkpoint: &Checkpoint, loader: Option<&str>) -> Vec<Check> {
    let (files, tensors) = (checkpoint.shards.len(), checkpoint.tensors.len());
    let mut checks = vec![Check::passed("structure", format!("{tensors} tensors in {files} files"))];
    if let Some(loader) = loader {
        checks.push(match loadable(checkpoint) {
            Ok(architecture) => Check::passed("loader", format!("{architecture}; {loader} finds what it needs")),
            Err(missing) => Check::failed("loader", missing),
        });
    }
    checks
}

/// Whether a folder has what programs ask for that load it by its path.
fn loadable(checkpoint: &Checkpoint) -> Result<String, String> {
    let config = &checkpoint.config;
    if config.is_null() {
        return Err("there is no config.json".into());
    }
    let single = checkpoint.shards.len() == 1 && checkpoint.shards[0].file_name == "model.safetensors";
    if !single && !checkpoint.root.join("model.safetensors.index.json").exists() {
        return Err("there is neither model.safetensors nor model.safetensors.index.json".into());
    }
    let tokenizer = |name: &str| checkpoint.companions.iter().any(|file| file.name == name);
    if !TOKENIZERS.into_iter().any(tokenizer) {
        return Err("there is no tokenizer".into());
    }
    let model_type = config["model_type"].as_str().ok_or("config.json has no `model_type`")?;
    let architecture = config["architectures"][0].as_str().ok_or("config.json has no `architectures`")?;
    Ok(format!("{architecture} ({model_type})"))
}

/// Looks for numbers that are not finite among elements of a safetensors dtype.
pub(super) fn numbers(dtype: &str, bytes: &[u8]) -> Numbers {
    let found = match dtype {
        "F64" => first(bytes, |bytes| !f64::from_le_bytes(*bytes).is_finite()),
        "F32" => first(bytes, |bytes| !f32::from_le_bytes(*bytes).is_finite()),
        "F16" => first(bytes, |bytes| u16::from_le_bytes(*bytes) & 0x7c00 == 0x7c00),
        "BF16" => first(bytes, |bytes| u16::from_le_bytes(*bytes) & 0x7f80 == 0x7f80),
        // No infinities; NaN is all ones but for the sign.
        "F8_E4M3" => first(bytes, |[byte]| byte & 0x7f == 0x7f),
        "F8_E5M2" => first(bytes, |[byte]| byte & 0x7c == 0x7c),
        "F8_E8M0" => first(bytes, |[byte]| *byte == 0xff),
        "BOOL" | "U8" | "I8" | "U16" | "I16" | "U32" | "I32" | "U64" | "I64" => None,
        _ => return Numbers::Unknown,
    };
    found.map_or(Numbers::Finite, |element| Numbers::NotFinite(element as u64))
}

fn first<const N: usize>(bytes: &[u8], wrong: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    bytes.as_chunks().0.iter().position(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_found_in_every_float() {
        let cases: [(&str, &[u8], &[u8]); 6] = [
            ("F64", &f64::MAX.to_le_bytes(), &f64::NAN.to_le_bytes()),
            ("F32", &f32::MAX.to_le_bytes(), &f32::NEG_INFINITY.to_le_bytes()),
            ("F16", &0x7bff_u16.to_le_bytes(), &0xfc00_u16.to_le_bytes()),
            ("BF16", &0x7f7f_u16.to_le_bytes(), &0x7fc0_u16.to_le_bytes()),
            ("F8_E4M3", &[0x7e], &[0xff]),
            ("F8_E5M2", &[0x7b], &[0x7c]),
        ];
        for (dtype, finite, wrong) in cases {
            assert_eq!(numbers(dtype, &[finite, finite].concat()), Numbers::Finite, "{dtype}");
            assert_eq!(numbers(dtype, &[finite, wrong].concat()), Numbers::NotFinite(1), "{dtype}");
        }
        assert_eq!(numbers("I32", &[0xff; 4]), Numbers::Finite);
        assert_eq!(numbers("F6_E2M3", &[0; 3]), Numbers::Unknown);
    }
}
