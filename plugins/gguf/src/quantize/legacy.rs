//! Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: a block of 32 weights has one scale, found without a search unless
//! importances are given.
//!
//! The arithmetic is that of ggml's `quantize_row_*_ref` and `quantize_row_*_impl`, operation by operation.

use super::blocks::{column_times_magnitude, each_block, sum_of_squares};
use super::round::{each, rounded_byte, truncated_byte};
use super::search::{Error, Offsets, scale_among_19, scale_and_min};
use crate::layout::{BLOCK, put_f16, q4_0, q4_1, q5_0, q5_1, q8_0};

/// 4 bits: the weight of largest magnitude becomes level 0, that is −8, and zero level 8.
pub fn q4_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<{ q4_0::BYTES }>().0) {
        let scale = extreme(x) / -8.0;
        let inverse = inverse(scale);
        put_f16(out, q4_0::D, scale);
        put_4_bits(&mut out[q4_0::QS..], &each(x, |x| clamped(truncated_byte(x * inverse + 8.5), 15)));
    }
}

/// 4 bits from the minimum up.
pub fn q4_1(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<{ q4_1::BYTES }>().0) {
        let (min, max) = range(x);
        let scale = (max - min) / 15.0;
        let inverse = inverse(scale);
        put_f16(out, q4_1::D, scale);
        put_f16(out, q4_1::M, min);
        put_4_bits(&mut out[q4_1::QS..], &each(x, |x| clamped(truncated_byte((x - min) * inverse + 0.5), 15)));
    }
}

/// 5 bits: as [`q4_0()`] with twice the levels.
pub fn q5_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<{ q5_0::BYTES }>().0) {
        let scale = extreme(x) / -16.0;
        let inverse = inverse(scale);
        put_f16(out, q5_0::D, scale);
        let levels = each(x, |x| clamped(truncated_byte(x * inverse + 16.5), 31));
        put_5_bits(out, q5_0::QH, q5_0::QS, &levels);
    }
}

/// 5 bits from the minimum up.
pub fn q5_1(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<{ q5_1::BYTES }>().0) {
        let (min, max) = range(x);
        let scale = (max - min) / 31.0;
        let inverse = inverse(scale);
        put_f16(out, q5_1::D, scale);
        put_f16(out, q5_1::M, min);
        // The one type without a clamp: the largest weight gives 31 and a rounding error at most.
        let levels = each(x, |x| truncated_byte((x - min) * inverse + 0.5));
        put_5_bits(out, q5_1::QH, q5_1::QS, &levels);
    }
}

/// 8 bits, signed: the largest magnitude becomes ±127.
pub fn q8_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q8_0::BYTES }>().0) {
        let scale = fold(x, 0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest }) / 127.0;
        let inverse = inverse(scale);
        put_f16(out, q8_0::D, scale);
        out[q8_0::QS..].copy_from_slice(&each(x, |x| rounded_byte(x * inverse)));
    }
}

/// As [`q4_0()`], with a search for the scale that serves the important columns best; ggml's
/// `quantize_row_q4_0_impl` for each row. `columns` is the importance of each column of a row.
pub fn q4_0_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_weighted(x, columns, out, |x, importance, out: &mut [u8; q4_0::BYTES]| {
        let mut levels = [0; BLOCK];
        put_f16(out, q4_0::D, scale_among_19(8.0, x, importance, &mut levels));
        put_4_bits(&mut out[q4_0::QS..], &levels);
    });
}

/// As [`q4_1()`], with the search of [`q4_0_weighted`]; ggml's `quantize_row_q4_1_impl` for each row.
pub fn q4_1_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_weighted(x, columns, out, |x, importance, out: &mut [u8; q4_1::BYTES]| {
        let mut levels = [0; BLOCK];
        let (scale, min) = scale_and_min(15.0, x, importance, &mut levels, Offsets::WEIGHTED, Error::Squared);
        put_f16(out, q4_1::D, scale);
        put_f16(out, q4_1::M, -min);
        put_4_bits(&mut out[q4_1::QS..], &levels);
    });
}

/// As [`q5_0()`], with the search of [`q4_0_weighted`]; ggml's `quantize_row_q5_0_impl` for each row.
pub fn q5_0_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_weighted(x, columns, out, |x, importance, out: &mut [u8; q5_0::BYTES]| {
        let mut levels = [0; BLOCK];
        put_f16(out, q5_0::D, scale_among_19(16.0, x, importance, &mut levels));
        put_5_bits(out, q5_0::QH, q5_0::QS, &levels);
    });
}

/// As [`q5_1()`], with the search of [`q4_0_weighted`]; ggml's `quantize_row_q5_1_impl` for each row.
pub fn q5_1_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_weighted(x, columns, out, |x, importance, out: &mut [u8; q5_1::BYTES]| {
        let mut levels = [0; BLOCK];
        let (scale, min) = scale_and_min(31.0, x, importance, &mut levels, Offsets::WEIGHTED, Error::Squared);
        put_f16(out, q5_1::D, scale);
        put_f16(out, q5_1::M, -min);
        put_5_bits(out, q5_1::QH, q5_1::QS, &levels);
    });
}

/// Calls for each block with its weights, their importance, and its bytes. How large a weight is counts
/// beside the weights of its whole row.
#[inline]
fn each_weighted<const BYTES: usize>(
    x: &[f32],
    columns: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; BLOCK], &[f32; BLOCK], &mut [u8; BYTES]),
) {
    #[expect(clippy::cast_precision_loss, reason = "the reference rounds the length of a row, too")]
    let length = columns.len() as f32;
    let row_bytes = columns.len() / BLOCK * BYTES;
    for (x, out) in x.chunks_exact(columns.len().max(1)).zip(out.chunks_exact_mut(row_bytes.max(1))) {
        let spread = sum_of_squares(x) / length;
        each_block(x, columns, out, |x, columns, out| quantize(x, &column_times_magnitude(x, columns, spread), out));
    }
}

/// One over the scale, before the scale is rounded to f16; zero for zero.
#[inline]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The first weight of the largest magnitude, with its sign; a positive zero for zeros. NaNs are
/// passed over.
#[inline]
fn extreme(x: &[f32; BLOCK]) -> f32 {
    let magnitude = fold(x, 0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest });
    let is_largest = |x: f32| x.to_bits() & 0x7fff_ffff == magnitude.to_bits();
    let signs = each(x, |x| if is_largest(x) { 1 << (x.to_bits() >> 31) } else { 0_u32 });
    match signs.iter().fold(0, |all, sign| all | sign) {
        _ if magnitude == 0.0 => 0.0,
        0b01 => magnitude,
        0b10 => -magnitude,
        // Both signs.
        _ => x.iter().copied().find(|&x| is_largest(x)).unwrap_or(0.0),
    }
}

/// The smallest and the largest weight. Where that is a zero, the first zero counts, as if the
/// weights were compared one after the other: its sign is stored.
#[inline]
fn range(x: &[f32; BLOCK]) -> (f32, f32) {
    let min = fold(x, f32::MAX, |min, x| if x < min { x } else { min });
    let max = fold(x, -f32::MAX, |max, x| if x > max { x } else { max });
    let first_zero = |extreme: f32| {
        if extreme == 0.0 { x.iter().copied().find(|x| *x == 0.0).unwrap_or(extreme) } else { extreme }
    };
    (first_zero(min), first_zero(max))
}

/// Folds in eight lanes, which is right for choices that do not depend on order.
#[inline]
fn fold(x: &[f32; BLOCK], start: f32, choose: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 8];
    for x in x.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = choose(*lane, *x);
        }
    }
    for half in [4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = choose(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// The upper clamp, on signed bytes as in the reference. There is no lower one, since nothing below
/// zero comes here.
#[inline]
fn clamped(level: u8, max: i8) -> u8 {
    level.cast_signed().min(max).cast_unsigned()
}

/// Packs 5-bit levels: the low four bits as in Q4_0, the fifth bits apart.
#[inline]
pub(crate) fn put_5_bits(out: &mut [u8], qh: usize, qs: usize, levels: &[u8; BLOCK]) {
    let mut high = 0;
    for (j, &level) in levels.iter().enumerate() {
        high |= u32::from(level >> 4 & 1) << j;
    }
    out[qh..qh + 4].copy_from_slice(&high.to_le_bytes());
    put_4_bits(&mut out[qs..], levels);
}

/// Packs the low four bits of levels.
#[inline]
pub(crate) fn put_4_bits(out: &mut [u8], levels: &[u8; BLOCK]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = (levels[j] & 0xf) | (levels[j + BLOCK / 2] << 4);
    }
}
