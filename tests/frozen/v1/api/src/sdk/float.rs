//! Conversions between the float dtypes and `f32`, exact or rounded to nearest even.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::{DType, Failure, InstructionSet, Loop, Result};

/// Widens packed little-endian floats to `f32`; exact for every dtype that it takes.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a dtype other than f32, f16 and bf16, and with kind `INTERNAL`
/// when the lengths do not agree.
pub fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    widen_on(InstructionSet::best(), dtype, bytes, out)
}

fn widen_on(set: InstructionSet, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let size = match dtype {
        DType::F32 => 4,
        DType::F16 | DType::BF16 => 2,
        DType(other) => return Err(Failure::unsupported(format!("weights of dtype number {other} cannot be widened"))),
    };
    if bytes.len() != out.len() * size {
        return Err(Failure::internal(format!(
            "{} bytes do not hold {} floats of {size} bytes",
            bytes.len(),
            out.len()
        )));
    }
    match dtype {
        DType::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        DType::BF16 => set.run(WidenBf16, bytes.as_chunks().0, out),
        _ => widen_f16(bytes, out),
    }
    Ok(())
}

struct WidenBf16;

impl Loop<&[[u8; 2]], &mut [f32]> for WidenBf16 {
    type Output = ();

    #[inline(always)]
    fn run(self, bytes: &[[u8; 2]], out: &mut [f32]) {
        for (value, raw) in out.iter_mut().zip(bytes) {
            *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
        }
    }
}

/// Goes through an aligned buffer, because a checkpoint may place its data at an odd address while
/// `half` uses the CPU's conversion on slices only.
fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    let mut aligned = [f16::ZERO; 256];
    for (values, raw) in out.chunks_mut(256).zip(bytes.chunks(512)) {
        let halves = &mut aligned[..values.len()];
        for (half, raw) in halves.iter_mut().zip(raw.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*raw);
        }
        halves.convert_to_f32_slice(values);
    }
}

/// Weights that are widened before they are looked at: they are still in the core's nearest cache then.
const NEAR: usize = 4096;

/// As [`widen`]; gives the index of the first NaN or infinity, if there is one. What comes after it is not widened then.
///
/// # Errors
/// As [`widen`].
pub(super) fn widen_finite(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<Option<usize>> {
    let size = bytes.len().checked_div(out.len()).unwrap_or(0).max(1);
    if bytes.len() != out.len() * size {
        // Which is refused.
        return widen(dtype, bytes, out).map(|()| None);
    }
    for (index, (out, bytes)) in out.chunks_mut(NEAR).zip(bytes.chunks(NEAR * size)).enumerate() {
        widen(dtype, bytes, out)?;
        if let Some(found) = first_non_finite(out) {
            return Ok(Some(index * NEAR + found));
        }
    }
    Ok(None)
}

/// The index of the first NaN or infinity.
#[must_use]
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    first_non_finite_on(InstructionSet::best(), values)
}

fn first_non_finite_on(set: InstructionSet, values: &[f32]) -> Option<usize> {
    const INFINITY: u32 = 0x7f80_0000;
    // A branch-free pass over each block first: almost always there is nothing to find.
    values.chunks(1024).enumerate().find_map(|(block, values)| {
        let largest = set.run(LargestMagnitude, values, ());
        let within = (largest >= INFINITY).then(|| values.iter().position(|value| !value.is_finite())).flatten();
        within.map(|index| block * 1024 + index)
    })
}

/// The largest of the bits without the sign: with that, numbers are ordered as they are, and infinity and NaN come after them.
struct LargestMagnitude;

impl Loop<&[f32], ()> for LargestMagnitude {
    type Output = u32;

    #[inline(always)]
    fn run(self, values: &[f32], (): ()) -> u32 {
        values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff))
    }
}

/// Rounds to bf16, to nearest even; NaNs stay NaN.
#[must_use]
pub fn narrow_to_bf16(value: f32) -> u16 {
    bf16::from_f32(value).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_is_exact_for_every_half_and_bfloat_pattern() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        widen(DType::F16, &bytes, &mut out).unwrap();
        for (bits, value) in (0..=u16::MAX).zip(&out) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(expected.to_bits() == value.to_bits() || expected.is_nan() && value.is_nan(), "f16 {bits:#06x}");
        }
        for set in InstructionSet::available() {
            widen_on(set, DType::BF16, &bytes, &mut out).unwrap();
            for (bits, value) in (0..=u16::MAX).zip(&out) {
                assert_eq!(value.to_bits(), u32::from(bits) << 16, "bf16 {bits:#06x} {}", set.name());
            }
            out.fill(0.0);
        }
    }

    #[test]
    fn widening_takes_data_at_an_odd_address() {
        let mut bytes = vec![0xff];
        bytes.extend(f16::from_f32(1.5).to_le_bytes());
        bytes.extend(f16::from_f32(-2.0).to_le_bytes());
        let mut out = [0.0; 2];
        widen(DType::F16, &bytes[1..], &mut out).unwrap();
        assert_eq!(out.map(f32::to_bits), [1.5_f32, -2.0].map(f32::to_bits));
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert!(widen(DType::F32, &[0; 7], &mut [0.0; 2]).is_err());
        assert!(widen(DType::I32, &[0; 8], &mut [0.0; 2]).is_err());
        assert!(widen_finite(DType::BF16, &[0; 8], &mut [0.0; 2]).is_err());
        assert!(widen_finite(DType::F16, &[0; 7], &mut [0.0; 2]).is_err());
        assert!(widen_finite(DType::F16, &[0; 4], &mut []).is_err());
        assert_eq!(widen_finite(DType::F16, &[], &mut []), Ok(None));
    }

    #[test]
    fn the_first_non_finite_value_is_found_wherever_it_is() {
        for length in [1, 3, 1023, 1024, 1025, 5000] {
            for at in [0, length / 2, length - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for set in InstructionSet::available() {
                        let mut values = vec![f32::MIN; length];
                        assert_eq!(first_non_finite_on(set, &values), None);
                        values[at] = bad;
                        assert_eq!(first_non_finite_on(set, &values), Some(at));
                        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                        assert_eq!(widen_finite(DType::F32, &bytes, &mut values), Ok(Some(at)));
                    }
                }
            }
        }
    }
}
