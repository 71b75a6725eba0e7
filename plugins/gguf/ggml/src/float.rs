//! Half floats, bit for bit as ggml converts them, in integer operations that compilers vectorise.
//!
//! Equal to the CPUs' own conversions (round to nearest even), except that a NaN becomes the one
//! f16 NaN with its sign, as ggml writes it. It knows nothing of blocks.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

/// Rounds to f16.
#[inline(always)]
pub fn to_f16(value: f32) -> u16 {
    const INFINITY: u32 = 0x7f80_0000;
    /// 65536, from where even rounding cannot give a finite f16.
    const OVERFLOW: u32 = 143 << 23;
    /// 2⁻¹⁴, the smallest normal f16.
    const SMALLEST_NORMAL: u32 = 113 << 23;

    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2⁻¹⁴ an f16 is a multiple of 2⁻²⁴, and that is the spacing of the f32 numbers at 0.5.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    // A carry out of the mantissa is right: it gives the next power of two, or infinity.
    let normal = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
    let rounded = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    let rounded = if magnitude >= OVERFLOW { 0x7c00 } else { rounded };
    let rounded = if magnitude > INFINITY { 0x7e00 } else { rounded };
    low_half((bits >> 16) & 0x8000 | rounded)
}

/// Widens an f16; exact, and a NaN keeps its payload but becomes quiet.
#[inline(always)]
pub fn from_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = bits & 0x7fff;
    // The exponents of f16 lie 112 below those of f32; that of infinity and NaN twice as far.
    let rebias = if magnitude < 0x7c00 { 112 << 23 } else { 224 << 23 };
    let quiet = if magnitude > 0x7c00 { 1 << 22 } else { 0 };
    let normal = ((magnitude << 13) + rebias) | quiet;
    let subnormal = (f32::from_bits(magnitude | 0.5_f32.to_bits()) - 0.5).to_bits();
    let widened = if magnitude < 0x400 { subnormal } else { normal };
    f32::from_bits(widened | (bits & 0x8000) << 16)
}

/// Rounds to bf16; a NaN keeps the upper half of its payload and becomes quiet.
#[inline(always)]
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    low_half(if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded })
}

/// Widens a bf16; exact, NaNs included.
#[inline(always)]
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[expect(clippy::cast_possible_truncation, reason = "the callers made it fit")]
fn low_half(bits: u32) -> u16 {
    bits as u16
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_half_widens_as_the_half_crate_widens_it() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (from_f16(bits), f16::from_bits(bits).to_f32());
            assert_eq!(ours.to_bits(), theirs.to_bits(), "f16 {bits:#06x}");
            assert_eq!(from_bf16(bits).to_bits(), u32::from(bits) << 16);
        }
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate_around_every_representable_value() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                if value.is_nan() {
                    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
                    assert_eq!(to_f16(value), sign | 0x7e00);
                    assert_eq!(to_bf16(value), upper | 0x40);
                } else {
                    assert_eq!(to_f16(value), f16::from_f32(value).to_bits(), "{value:e}");
                    assert_eq!(to_bf16(value), bf16::from_f32(value).to_bits(), "{value:e}");
                }
            }
        }
    }
}
