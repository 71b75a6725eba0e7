//! What the K-quants share around their searches: weights, the choice of the super-block's scale,
//! and the final levels for the scales as stored.

use super::round::{each, low_byte, nearest_int, nearest_level, truncated_byte};
use super::search::positive_scale;
use crate::layout::{f16, put_f16, put_scale_and_min, q4_k, q5_k, scale_and_min};

/// The importance of weights in Q2_K: their magnitude.
#[inline]
pub(super) fn absolute<const N: usize>(x: &[f32; N]) -> [f32; N] {
    each(x, f32::abs)
}

/// The importance of weights in Q4_K and Q5_K: the root mean square of all plus their magnitude.
#[inline]
pub(super) fn rms_plus_absolute(x: &[f32; 32]) -> [f32; 32] {
    let rms = (sum_of_squares(x) / 32.0).sqrt();
    each(x, |x| rms + x.abs())
}

/// The importance of weights as a search takes it where each column's is given: times the weight's own
/// magnitude, with `spread` added under the root.
#[inline]
pub(super) fn column_times_magnitude<const N: usize>(x: &[f32; N], columns: &[f32; N], spread: f32) -> [f32; N] {
    let mut importance = each(x, |x| (spread + x * x).sqrt());
    for (importance, column) in importance.iter_mut().zip(columns) {
        *importance *= column;
    }
    importance
}

/// The sum, from the first to the last.
#[inline]
pub(super) fn sum(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value)
}

/// The sum of squares, from the first weight to the last.
#[inline]
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// Calls for each block of some rows: with its weights, the importance of its columns, and its bytes.
/// `columns` are those of one row.
#[inline]
pub(super) fn each_block<const N: usize, const BYTES: usize>(
    x: &[f32],
    columns: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; N], &[f32; N], &mut [u8; BYTES]),
) {
    let columns = columns.as_chunks().0.iter().cycle();
    for ((x, columns), out) in x.as_chunks().0.iter().zip(columns).zip(out.as_chunks_mut().0) {
        quantize(x, columns, out);
    }
}

/// The largest value, at least zero. NaNs are passed over.
#[inline]
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, &value| if value > largest { value } else { largest })
}

/// The first value of the largest magnitude, with its sign. NaNs are passed over.
#[inline]
pub(super) fn first_largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest: f32, &value| if value.abs() > largest.abs() { value } else { largest })
}

/// Replaces the levels by the best ones for a scale and minimum as stored.
///
/// With a scale of zero they stay what the search left, although nothing depends on them any more:
/// the reference stores them, so they are part of its bytes.
#[inline]
pub(super) fn levels_above_min<const N: usize>(max: f32, x: &[f32; N], scale: f32, min: f32, levels: &mut [u8; N]) {
    if scale != 0.0 {
        *levels = each(x, |x| truncated_byte(nearest_level((x + min) / scale, 0.0, max)));
    }
}

/// Replaces the levels by the best ones for a scale as stored, with `half` added; as
/// [`levels_above_min`] leaves them alone with a scale of zero.
#[inline]
pub(super) fn signed_levels(half: f32, x: &[f32; 16], scale: f32, levels: &mut [u8; 16]) {
    if scale != 0.0 {
        *levels = each(x, |x| truncated_byte(nearest_level(x / scale, -half, half - 1.0) + half));
    }
}

/// Fills the head that Q4_K and Q5_K have in common; returns scale and minimum of each sub-block as
/// a reader will see them.
#[inline]
pub(super) fn put_scales_and_mins(head: &mut [u8], scales: &[f32; 8], mins: &[f32; 8]) -> [(f32, f32); 8] {
    const _: () = assert!(q4_k::D == q5_k::D && q4_k::DMIN == q5_k::DMIN && q4_k::SCALES == q5_k::SCALES);

    let (max_scale, max_min) = (largest(scales), largest(mins));
    let (inverse_scale, inverse_min) = (inverse(max_scale), inverse(max_min));
    put_f16(head, q4_k::D, max_scale / 63.0);
    put_f16(head, q4_k::DMIN, max_min / 63.0);
    let mut packed = [0; 12];
    for j in 0..8 {
        // Cut to a byte before the clamp, as in the reference: a negative scale becomes 63.
        let scale = low_byte(nearest_int(inverse_scale * scales[j])).min(63);
        let min = low_byte(nearest_int(inverse_min * mins[j])).min(63);
        put_scale_and_min(&mut packed, j, scale, min);
    }
    head[q4_k::SCALES..].copy_from_slice(&packed);

    stored_scales_and_mins(head, &packed)
}

/// Fills that head with importances given, for sub-blocks whose importances add up to `importance`.
/// The levels of the scales are cut to `most_level`, which Q5_K has and Q4_K has not.
#[inline]
pub(super) fn put_weighted_scales_and_mins(
    head: &mut [u8],
    scales: &[f32; 8],
    mins: &[f32; 8],
    importance: &[f32; 8],
    most_level: u8,
) -> [(f32, f32); 8] {
    let (mut scale_levels, mut min_levels) = ([0; 8], [0; 8]);
    let scale = positive_scale(63, scales, importance, &mut scale_levels);
    let min = positive_scale(63, mins, importance, &mut min_levels);
    put_f16(head, q4_k::D, scale);
    put_f16(head, q4_k::DMIN, min);
    let mut packed = [0; 12];
    for j in 0..8 {
        put_scale_and_min(&mut packed, j, scale_levels[j].min(most_level), min_levels[j].min(most_level));
    }
    head[q4_k::SCALES..].copy_from_slice(&packed);
    stored_scales_and_mins(head, &packed)
}

/// Scale and minimum of each sub-block as a reader will see them.
#[inline]
fn stored_scales_and_mins(head: &[u8], packed: &[u8; 12]) -> [(f32, f32); 8] {
    let (d, dmin) = (f16(head, q4_k::D), f16(head, q4_k::DMIN));
    std::array::from_fn(|j| {
        let (scale, min) = scale_and_min(packed, j);
        (d * f32::from(scale), dmin * f32::from(min))
    })
}

#[inline]
fn inverse(max: f32) -> f32 {
    if max > 0.0 { 63.0 / max } else { 0.0 }
}
