//! Super-blocks of 256 weights with quantised scales.

use super::{apart, signed};
use crate::layout::{SUPER_BLOCK, f16, q2_k, q3_k, q3_scale, q4_k, q5_k, q6_k, scale_and_min};

#[inline(always)]
pub(crate) fn q2_k(block: &[u8; q2_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (f16(block, q2_k::D), f16(block, q2_k::DMIN));
    let levels = levels_of_2_bits(&block[q2_k::QS..q2_k::D]);
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for ((out, levels), packed) in sub_blocks.zip(&block[q2_k::SCALES..q2_k::QS]) {
        let (scale, min) = (d * f32::from(packed & 0xf), dmin * f32::from(packed >> 4));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * f32::from(level) - min;
        }
        apart();
    }
}

#[inline(always)]
pub(crate) fn q3_k(block: &[u8; q3_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, q3_k::D);
    let levels = levels_of_3_bits(block);
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for (j, (out, levels)) in sub_blocks.enumerate() {
        let scale = d * f32::from(q3_scale(&block[q3_k::SCALES..q3_k::D], j));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * signed(level, 4);
        }
        apart();
    }
}

#[inline(always)]
pub(crate) fn q4_k(block: &[u8; q4_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let levels = levels_of_4_bits(&block[q4_k::QS..]);
    above_min(&block[..q4_k::QS], &levels, out);
}

#[inline(always)]
pub(crate) fn q5_k(block: &[u8; q5_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let levels = levels_of_5_bits(block);
    above_min(&block[..q5_k::QH], &levels, out);
}

#[inline(always)]
pub(crate) fn q6_k(block: &[u8; q6_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, q6_k::D);
    let levels = levels_of_6_bits(block);
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for ((out, levels), scale) in sub_blocks.zip(&block[q6_k::SCALES..q6_k::D]) {
        let scale = d * f32::from(scale.cast_signed());
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * signed(level, 32);
        }
        apart();
    }
}

/// The weights of Q4_K and Q5_K, from the head that they have in common.
#[inline(always)]
fn above_min(head: &[u8], levels: &[u8; SUPER_BLOCK], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (f16(head, q4_k::D), f16(head, q4_k::DMIN));
    let mut packed = [0; 12];
    packed.copy_from_slice(&head[q4_k::SCALES..]);
    let sub_blocks = out.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<32>().0);
    for (j, (out, levels)) in sub_blocks.enumerate() {
        let (scale, min) = scale_and_min(&packed, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * f32::from(level) - min;
        }
        apart();
    }
}

#[inline(always)]
pub(super) fn levels_of_4_bits(packed: &[u8]) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    let halves = levels.as_chunks_mut::<32>().0.as_chunks_mut::<2>().0;
    for (halves, packed) in halves.iter_mut().zip(packed.as_chunks::<32>().0) {
        *halves = [packed.map(|packed| packed & 0xf), packed.map(|packed| packed >> 4)];
    }
    levels
}

#[inline(always)]
pub(super) fn levels_of_2_bits(packed: &[u8]) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    let quarters = levels.as_chunks_mut::<32>().0.as_chunks_mut::<4>().0;
    for (quarters, packed) in quarters.iter_mut().zip(packed.as_chunks::<32>().0) {
        *quarters = [
            packed.map(|packed| packed & 3),
            packed.map(|packed| packed >> 2 & 3),
            packed.map(|packed| packed >> 4 & 3),
            packed.map(|packed| packed >> 6),
        ];
    }
    levels
}

#[inline(always)]
pub(super) fn levels_of_3_bits(block: &[u8; q3_k::BYTES]) -> [u8; SUPER_BLOCK] {
    let mut levels = levels_of_2_bits(&block[q3_k::QS..q3_k::SCALES]);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (level, mask) in levels.iter_mut().zip(&block[q3_k::HMASK..q3_k::QS]) {
            *level |= (mask >> bit & 1) << 2;
        }
    }
    levels
}

#[inline(always)]
pub(super) fn levels_of_5_bits(block: &[u8; q5_k::BYTES]) -> [u8; SUPER_BLOCK] {
    let mut levels = levels_of_4_bits(&block[q5_k::QS..]);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (level, high) in levels.iter_mut().zip(&block[q5_k::QH..q5_k::QS]) {
            *level |= (high >> bit & 1) << 4;
        }
    }
    levels
}

#[inline(always)]
pub(super) fn levels_of_6_bits(block: &[u8; q6_k::BYTES]) -> [u8; SUPER_BLOCK] {
    let mut levels = levels_of_2_bits(&block[q6_k::QH..q6_k::SCALES]);
    let halves = levels.as_chunks_mut::<64>().0.as_chunks_mut::<2>().0;
    for ([low, high], packed) in halves.iter_mut().zip(block[..q6_k::QH].as_chunks::<64>().0) {
        for (level, packed) in low.iter_mut().zip(packed) {
            *level = *level << 4 | packed & 0xf;
        }
        for (level, packed) in high.iter_mut().zip(packed) {
            *level = *level << 4 | packed >> 4;
        }
    }
    levels
}
