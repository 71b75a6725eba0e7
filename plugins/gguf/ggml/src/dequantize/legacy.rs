//! Types with a scale, and some with a minimum, for every 32 weights.

use super::signed;
use crate::layout::{BLOCK, f16, q4_0, q4_1, q5_0, q5_1, q8_0};

#[inline(always)]
pub(crate) fn q4_0(block: &[u8; q4_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q4_0::D);
    for (out, level) in out.iter_mut().zip(levels_of_4_bits(block, q4_0::QS)) {
        *out = signed(level, 8) * d;
    }
}

#[inline(always)]
pub(crate) fn q4_1(block: &[u8; q4_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q4_1::D), f16(block, q4_1::M));
    for (out, level) in out.iter_mut().zip(levels_of_4_bits(block, q4_1::QS)) {
        *out = f32::from(level) * d + m;
    }
}

#[inline(always)]
pub(crate) fn q5_0(block: &[u8; q5_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q5_0::D);
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_0::QH, q5_0::QS)) {
        *out = signed(level, 16) * d;
    }
}

#[inline(always)]
pub(crate) fn q5_1(block: &[u8; q5_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q5_1::D), f16(block, q5_1::M));
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_1::QH, q5_1::QS)) {
        *out = f32::from(level) * d + m;
    }
}

#[inline(always)]
pub(crate) fn q8_0(block: &[u8; q8_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q8_0::D);
    for (out, level) in out.iter_mut().zip(&block[q8_0::QS..]) {
        *out = f32::from(level.cast_signed()) * d;
    }
}

#[inline(always)]
pub(super) fn levels_of_5_bits(block: &[u8], qh: usize, qs: usize) -> [u8; BLOCK] {
    let high = u32::from_le_bytes([block[qh], block[qh + 1], block[qh + 2], block[qh + 3]]);
    let mut levels = levels_of_4_bits(block, qs);
    for (j, level) in levels.iter_mut().enumerate() {
        *level |= if high >> j & 1 == 0 { 0 } else { 16 };
    }
    levels
}

#[inline(always)]
pub(super) fn levels_of_4_bits(block: &[u8], qs: usize) -> [u8; BLOCK] {
    let mut levels = [0; BLOCK];
    let (low, high) = levels.split_at_mut(BLOCK / 2);
    for ((low, high), packed) in low.iter_mut().zip(high).zip(&block[qs..]) {
        (*low, *high) = (packed & 0xf, packed >> 4);
    }
    levels
}
