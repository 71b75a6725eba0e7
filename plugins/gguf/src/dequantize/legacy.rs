//! Types with a scale, and some with a minimum, for every 32 weights.

use super::signed;
use crate::layout::{BLOCK, f16, q4_0, q4_1, q5_0, q5_1, q8_0};

#[inline]
pub(crate) fn q4_0(block: &[u8; q4_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q4_0::D);
    for (out, level) in out.iter_mut().zip(levels_of_4_bits(block, q4_0::QS)) {
        *out = signed(level, 8) * d;
    }
}

#[inline]
pub(crate) fn q4_1(block: &[u8; q4_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q4_1::D), f16(block, q4_1::M));
    for (out, level) in out.iter_mut().zip(levels_of_4_bits(block, q4_1::QS)) {
        *out = f32::from(level) * d + m;
    }
}

#[inline]
pub(crate) fn q5_0(block: &[u8; q5_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q5_0::D);
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_0::QH, q5_0::QS)) {
        *out = signed(level, 16) * d;
    }
}

#[inline]
pub(crate) fn q5_1(block: &[u8; q5_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q5_1::D), f16(block, q5_1::M));
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_1::QH, q5_1::QS)) {
        *out = f32::from(level) * d + m;
    }
}

#[inline]
pub(crate) fn q8_0(block: &[u8; q8_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q8_0::D);
    for (out, level) in out.iter_mut().zip(&block[q8_0::QS..]) {
        *out = f32::from(level.cast_signed()) * d;
    }
}

#[inline]
pub(super) fn levels_of_5_bits(block: &[u8], qh: usize, qs: usize) -> [u8; BLOCK] {
    let high = u32::from_le_bytes([block[qh], block[qh + 1], block[qh + 2], block[qh + 3]]);
    std::array::from_fn(|j| {
        let packed = block[qs + j % 16];
        let low = if j < 16 { packed & 0xf } else { packed >> 4 };
        low | if high >> j & 1 == 0 { 0 } else { 16 }
    })
}

#[inline]
pub(super) fn levels_of_4_bits(block: &[u8], qs: usize) -> [u8; BLOCK] {
    std::array::from_fn(|j| {
        let packed = block[qs + j % 16];
        if j < 16 { packed & 0xf } else { packed >> 4 }
    })
}
