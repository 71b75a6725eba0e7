//! Floats as checkpoints store them.

use qhost_plugin_api::sdk::narrow_to_bf16;
use qhost_rounding::f16;

/// Whether tensors of a type can be written.
pub(crate) fn is_known(dtype: &str) -> bool {
    matches!(dtype, "F32" | "F16" | "BF16")
}

/// A number as a type stores it; none of a type that is not known.
pub(crate) fn rounded_to(dtype: &str, value: f32) -> Option<f32> {
    match dtype {
        "F32" => Some(value),
        "F16" => Some(f16::from_f32(value).to_f32()),
        "BF16" => Some(f32::from_bits(u32::from(narrow_to_bf16(value)) << 16)),
        _ => None,
    }
}

/// The bytes of numbers in a type; none of a type that is not known.
pub(crate) fn narrow(dtype: &str, values: &[f32], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    match dtype {
        "F32" => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        "F16" => out.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
        "BF16" => out.extend(values.iter().flat_map(|value| narrow_to_bf16(*value).to_le_bytes())),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::{DType, widen};

    use super::*;

    #[test]
    fn numbers_are_stored_as_their_type_has_them() {
        let values = [1.0, -0.1, 3.0e38, f32::MIN_POSITIVE];
        for (dtype, size, of) in [("F32", 4, DType::F32), ("F16", 2, DType::F16), ("BF16", 2, DType::BF16)] {
            assert!(is_known(dtype));
            let mut bytes = Vec::new();
            narrow(dtype, &values, &mut bytes).unwrap();
            assert_eq!(bytes.len(), values.len() * size);
            let mut back = [0.0; 4];
            widen(of, &bytes, &mut back).unwrap();
            assert_eq!(back.map(f32::to_bits), values.map(|value| rounded_to(dtype, value).unwrap().to_bits()));
        }
        assert_eq!(rounded_to("F16", -0.1).unwrap().to_bits(), (-0.099_975_586_f32).to_bits());
        assert_eq!(rounded_to("BF16", -0.1).unwrap().to_bits(), (-0.100_097_656_f32).to_bits());
        assert!(!is_known("F8_E4M3") && rounded_to("F8_E4M3", 1.0).is_none());
    }
}
