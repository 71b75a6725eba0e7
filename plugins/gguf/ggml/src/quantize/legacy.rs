//! Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: a block of 32 weights has one scale, found without a search unless
//! importances are given.
//!
//! The arithmetic is that of ggml's `quantize_row_*_ref` and `quantize_row_*_impl`, operation by operation. Scales are
//! inverted before they are rounded to f16. A block can be so small that the inverse of its scale is infinite; what
//! comes of it no `i32` holds, and is stored as zeros.

use super::blocks::{column_times_magnitude, weights};
use super::dispatch::{Kernel, Weighing};
use super::lanes::{Bits, Lanes, MOST};
use super::search::{Error, Offsets, first_largest, scale_among_19, scale_and_min};
use crate::layout::{BLOCK, q4_0, q4_1, q5_0, q5_1, q8_0};

/// 4 bits: the weight of largest magnitude becomes level 0, that is −8, and zero level 8.
pub(super) struct Q4_0;

/// 4 bits from the minimum up.
pub(super) struct Q4_1;

/// 5 bits: as [`Q4_0`] with twice the levels.
pub(super) struct Q5_0;

/// 5 bits from the minimum up.
pub(super) struct Q5_1;

/// 8 bits, signed: the largest magnitude becomes ±127.
pub(super) struct Q8_0;

impl Kernel for Q4_0 {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = q4_0::BYTES;
    const BY_ROW: bool = true;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let (scale, levels) = around_zero::<F>(8.0, x, weighing);
        put::<F, 1>(&[scale.halves()], out, Self::BYTES, q4_0::D, 2);
        put::<F, 4>(&four_bits::<F>(&levels), out, Self::BYTES, q4_0::QS, 4);
    }
}

impl Kernel for Q4_1 {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = q4_1::BYTES;
    const BY_ROW: bool = true;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let (head, levels) = above_minimum::<F>(15.0, x, weighing);
        put::<F, 1>(&[head], out, Self::BYTES, q4_1::D, 4);
        put::<F, 4>(&four_bits::<F>(&levels), out, Self::BYTES, q4_1::QS, 4);
    }
}

impl Kernel for Q5_0 {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = q5_0::BYTES;
    const BY_ROW: bool = true;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let (scale, mut levels) = around_zero::<F>(16.0, x, weighing);
        put::<F, 1>(&[scale.halves()], out, Self::BYTES, q5_0::D, 2);
        put::<F, 1>(&[take_fifth_bits::<F>(&mut levels)], out, Self::BYTES, q5_0::QH, 4);
        put::<F, 4>(&four_bits::<F>(&levels), out, Self::BYTES, q5_0::QS, 4);
    }
}

impl Kernel for Q5_1 {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = q5_1::BYTES;
    const BY_ROW: bool = true;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let (head, mut levels) = above_minimum::<F>(31.0, x, weighing);
        put::<F, 1>(&[head], out, Self::BYTES, q5_1::D, 4);
        put::<F, 1>(&[take_fifth_bits::<F>(&mut levels)], out, Self::BYTES, q5_1::QH, 4);
        put::<F, 4>(&four_bits::<F>(&levels), out, Self::BYTES, q5_1::QS, 4);
    }
}

impl Kernel for Q8_0 {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = q8_0::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], _: Option<&Weighing<'_>>, out: &mut [u8]) {
        let x: [F; BLOCK] = weights(x, BLOCK, 0);
        let mut largest = F::all(0.0);
        for &x in &x {
            largest = x.abs().greater(largest);
        }
        let scale = largest / F::all(127.0);
        let inverse = inverse(scale);
        let mut words = [F::Bits::all(0); 8];
        for (word, x) in words.iter_mut().zip(x.as_chunks::<4>().0) {
            for (x, at) in x.iter().zip([0, 8, 16, 24]) {
                *word = *word | (rounded(*x * inverse) & F::Bits::all(0xff)).up(at);
            }
        }
        put::<F, 1>(&[scale.halves()], out, Self::BYTES, q8_0::D, 2);
        put::<F, 8>(&words, out, Self::BYTES, q8_0::QS, 4);
    }
}

/// The scales and the levels of Q4_0 and Q5_0, which have `half` levels below zero.
#[inline(always)]
fn around_zero<F: Lanes>(half: f32, x: &[f32], weighing: Option<&Weighing<'_>>) -> (F, [F::Bits; BLOCK]) {
    let x: [F; BLOCK] = weights(x, BLOCK, 0);
    let mut levels = [F::Bits::all(0); BLOCK];
    if let Some(weighing) = weighing {
        let columns = weights(weighing.columns, BLOCK, 0);
        let fit = scale_among_19::<F, BLOCK, true>(
            half,
            &x,
            &column_times_magnitude(&x, &columns, F::load(weighing.spreads)),
        );
        for (level, found) in levels.iter_mut().zip(fit.levels(half, &x)) {
            *level = found.truncated();
        }
        return (fit.scale, levels);
    }
    let scale = first_largest(&x) / F::all(-half);
    let (inverse, alive) = inverse_if_finite(scale);
    let zero = F::choose(alive, F::all(half + 0.5), F::all(0.0));
    for (level, &x) in levels.iter_mut().zip(&x) {
        // What is mapped beyond the last level becomes the last.
        *level = (x * inverse + zero).lesser(F::all(2.0 * half - 0.5)).truncated();
    }
    (scale, levels)
}

/// The scales and minima, each as an f16, and the levels of Q4_1 and Q5_1.
#[inline(always)]
fn above_minimum<F: Lanes>(max_level: f32, x: &[f32], weighing: Option<&Weighing<'_>>) -> (F::Bits, [F::Bits; BLOCK]) {
    let x: [F; BLOCK] = weights(x, BLOCK, 0);
    let mut levels = [F::Bits::all(0); BLOCK];
    if let Some(weighing) = weighing {
        let columns = weights(weighing.columns, BLOCK, 0);
        let importance = column_times_magnitude(&x, &columns, F::load(weighing.spreads));
        let fit = scale_and_min(max_level, &x, &importance, Offsets::WEIGHTED, Error::Squared);
        for (level, found) in levels.iter_mut().zip(fit.levels(max_level, Offsets::WEIGHTED, &x)) {
            *level = found.truncated();
        }
        return (fit.scale.halves() | (fit.min * F::all(-1.0)).halves().up(16), levels);
    }
    let (mut least, mut most) = (F::all(f32::MAX), F::all(-f32::MAX));
    for &x in &x {
        least = x.lesser(least);
        most = x.greater(most);
    }
    let scale = (most - least) / F::all(max_level);
    let (inverse, alive) = inverse_if_finite(scale);
    let half = F::choose(alive, F::all(0.5), F::all(0.0));
    for (level, &x) in levels.iter_mut().zip(&x) {
        // The largest weight gives the last level and a rounding error at most. Where the range is infinite, this can be
        // infinity times zero.
        *level = ((x - least) * inverse + half).greater(F::all(0.0)).truncated();
    }
    (scale.halves() | least.halves().up(16), levels)
}

/// The inverse of a scale where it is finite, and where that is; zero elsewhere. The reference turns the numbers that an infinite
/// inverse gives into integers, which is zero in the bits that are stored.
#[inline(always)]
fn inverse_if_finite<F: Lanes>(scale: F) -> (F, F::Mask) {
    let inverse = inverse(scale);
    let alive = inverse.abs().below(F::all(f32::INFINITY));
    (F::choose(alive, inverse, F::all(0.0)), alive)
}

/// One over the scale, before the scale is rounded to f16; zero for zero.
#[inline(always)]
pub(super) fn inverse<F: Lanes>(scale: F) -> F {
    F::choose(scale.equals(F::all(0.0)), F::all(0.0), F::all(1.0) / scale)
}

/// Rounds to the nearest integer, ties away from zero as C's `roundf`.
#[inline(always)]
fn rounded<F: Lanes>(x: F) -> F::Bits {
    // The largest float below a half: with a full half, its neighbour 0.49999997 would become 1.
    let below_half = F::all(0.5 - f32::EPSILON / 4.0);
    let with_sign = (x.bits() & F::Bits::all(1 << 31)) | below_half.bits();
    (x + with_sign.lanes()).truncated()
}

/// Levels of four bits, as they are packed.
#[inline(always)]
pub(super) fn four_bits<F: Lanes>(levels: &[F::Bits; BLOCK]) -> [F::Bits; 4] {
    let mut words = [F::Bits::all(0); 4];
    let (low, high) = levels.split_at(BLOCK / 2);
    for (word, (low, high)) in words.iter_mut().zip(low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0)) {
        for ((&low, &high), at) in low.iter().zip(high).zip([0, 8, 16, 24]) {
            *word = *word + (low + high.up(4)).up(at);
        }
    }
    words
}

/// The fifth bits of levels of five, as they are packed; what is left of the levels has four.
#[inline(always)]
fn take_fifth_bits<F: Lanes>(levels: &mut [F::Bits; BLOCK]) -> F::Bits {
    let mut bits = F::Bits::all(0);
    for level in levels.iter_mut().rev() {
        bits = bits + bits + level.down(4);
        *level = *level & F::Bits::all(0xf);
    }
    bits
}

/// Stores words, or the first `bytes` bytes of each, at an offset of each lane's block.
#[inline(always)]
pub(super) fn put<F: Lanes, const WORDS: usize>(
    words: &[F::Bits; WORDS],
    out: &mut [u8],
    block: usize,
    offset: usize,
    bytes: usize,
) {
    let mut lanes = [[0; MOST]; WORDS];
    for (lanes, word) in lanes.iter_mut().zip(words) {
        word.store(lanes);
    }
    for (lane, out) in out.chunks_exact_mut(block).take(F::COUNT).enumerate() {
        for (out, word) in out[offset..][..WORDS * bytes].chunks_exact_mut(bytes).zip(&lanes) {
            out.copy_from_slice(&word[lane].to_le_bytes()[..bytes]);
        }
    }
}

/// Packs 5-bit levels: the low four bits as in Q4_0, the fifth bits apart.
#[inline]
pub fn put_5_bits(out: &mut [u8], qh: usize, qs: usize, levels: &[u8; BLOCK]) {
    let mut high = 0;
    for (j, &level) in levels.iter().enumerate() {
        high |= u32::from(level >> 4 & 1) << j;
    }
    out[qh..qh + 4].copy_from_slice(&high.to_le_bytes());
    put_4_bits(&mut out[qs..], levels);
}

/// Packs the low four bits of levels.
#[inline]
pub fn put_4_bits(out: &mut [u8], levels: &[u8; BLOCK]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = (levels[j] & 0xf) | (levels[j + BLOCK / 2] << 4);
    }
}
