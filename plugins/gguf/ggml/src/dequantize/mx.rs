//! Four-bit floats under scales of eight bits.

use crate::layout::{mxfp4, nvfp4};

/// Twice the numbers of E2M1 (OCP microscaling formats, 5.3.3); the scales are halved for it.
const E2M1_TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[inline]
pub(crate) fn mxfp4(block: &[u8; mxfp4::BYTES], out: &mut [f32; mxfp4::WEIGHTS]) {
    halves(half_of_e8m0(block[mxfp4::E]), &block[mxfp4::QS..], out);
}

#[inline]
pub(crate) fn nvfp4(block: &[u8; nvfp4::BYTES], out: &mut [f32; nvfp4::WEIGHTS]) {
    let parts = block[nvfp4::QS..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0);
    for ((packed, out), scale) in parts.zip(&block[nvfp4::SCALES..nvfp4::QS]) {
        halves(half_of_e4m3(*scale), packed, out);
    }
}

/// The low halves of the bytes come first, and then the high ones.
#[inline]
fn halves(scale: f32, packed: &[u8], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(packed.len());
    for ((packed, low), high) in packed.iter().zip(low).zip(high) {
        *low = f32::from(E2M1_TWICE[usize::from(packed & 0xf)]) * scale;
        *high = f32::from(E2M1_TWICE[usize::from(packed >> 4)]) * scale;
    }
}

/// 2 to the power of the byte less 128; as in ggml, 255 is no NaN.
#[inline]
fn half_of_e8m0(byte: u8) -> f32 {
    f32::from_bits(match byte {
        // Subnormal.
        0 | 1 => 0x0020_0000 << byte,
        _ => u32::from(byte - 1) << 23,
    })
}

/// Half of an E4M3 without its sign. As in ggml 0x7f, the NaN, is zero, and the sign bit is not looked at; but with it
/// the NaN is a number.
#[inline]
fn half_of_e4m3(byte: u8) -> f32 {
    if byte == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (byte >> 3 & 0xf, f32::from(byte & 7));
    match exponent {
        0 => mantissa / 1024.0,
        // 2 to the power of the exponent less 8.
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 127 - 8) << 23),
    }
}
