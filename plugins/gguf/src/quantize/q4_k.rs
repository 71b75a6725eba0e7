//! Q4_K: 4 bits and a minimum for 32 weights, 6-bit scales and minima.

use super::blocks::{
    column_times_magnitude, each_block, levels_above_min, put_scales_and_mins, put_weighted_scales_and_mins,
    rms_plus_absolute, sum, sum_of_squares,
};
use super::search::{Error, Offsets, scale_and_min};
use crate::layout::{SUPER_BLOCK, q4_k};

/// Quantises whole super-blocks as ggml's `quantize_row_q4_K_ref`.
pub fn q4_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q4_k::BYTES }>().0) {
        super_block(x, out);
    }
}

/// Quantises whole rows as ggml's `quantize_row_q4_K_impl`; `columns` is the importance of each column.
pub fn q4_k_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, weighted_super_block);
}

fn weighted_super_block(x: &[f32; SUPER_BLOCK], columns: &[f32; SUPER_BLOCK], out: &mut [u8; q4_k::BYTES]) {
    let spread = 2.0 * sum_of_squares(x) / 256.0;
    let x = x.as_chunks::<32>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins, mut importance) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (j, ((x, columns), levels)) in x.iter().zip(columns.as_chunks().0).zip(levels.as_chunks_mut().0).enumerate() {
        let of_weights = column_times_magnitude(x, columns, spread);
        importance[j] = sum(&of_weights);
        (scales[j], mins[j]) = scale_and_min(15.0, x, &of_weights, levels, Offsets::WEIGHTED, Error::Squared);
    }
    let stored = put_weighted_scales_and_mins(&mut out[..q4_k::QS], &scales, &mins, &importance, u8::MAX);
    finish(x, &mut levels, &stored, out);
}

fn super_block(x: &[f32; SUPER_BLOCK], out: &mut [u8; q4_k::BYTES]) {
    let x = x.as_chunks::<32>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let offsets = Offsets::plain(-1.0, 21);
        (scales[j], mins[j]) = scale_and_min(15.0, x, &rms_plus_absolute(x), levels, offsets, Error::Squared);
    }

    let head = &mut out[..q4_k::QS];
    let stored = put_scales_and_mins(head, &scales, &mins);
    finish(x, &mut levels, &stored, out);
}

/// Stores the best levels for the scales and minima as stored.
#[inline]
fn finish(x: &[[f32; 32]], levels: &mut [u8; SUPER_BLOCK], stored: &[(f32, f32); 8], out: &mut [u8; q4_k::BYTES]) {
    for ((x, levels), (scale, min)) in x.iter().zip(levels.as_chunks_mut().0).zip(stored) {
        levels_above_min(15.0, x, *scale, *min, levels);
    }
    put_levels(levels, out);
}

/// Stores levels.
pub(crate) fn put_levels(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    for (packed, levels) in out[q4_k::QS..].as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = levels[l] | levels[l + 32] << 4;
        }
    }
}
