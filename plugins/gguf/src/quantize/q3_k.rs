//! Q3_K: 3 bits for 16 weights, signed 6-bit scales.

use super::blocks::{column_times_magnitude, each_block, first_largest, signed_levels, sum, sum_of_squares};
use super::round::{each, low_byte, nearest_int};
use super::search::{scale_among_19, scale_by_descent};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, put_q3_scales, q3_k, q3_scale};

/// Quantises whole super-blocks as ggml's `quantize_row_q3_K_ref`.
pub fn q3_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q3_k::BYTES }>().0) {
        super_block(x, out);
    }
}

/// Quantises whole rows as ggml's `quantize_row_q3_K_impl`; `columns` is the importance of each column.
pub fn q3_k_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, weighted_super_block);
}

fn weighted_super_block(x: &[f32; SUPER_BLOCK], columns: &[f32; SUPER_BLOCK], out: &mut [u8; q3_k::BYTES]) {
    let spread = 2.0 * sum_of_squares(x) / 256.0;
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut importance) = ([0.0; 16], [0.0; 16]);
    for (j, ((x, columns), levels)) in x.iter().zip(columns.as_chunks().0).zip(levels.as_chunks_mut().0).enumerate() {
        let of_weights = column_times_magnitude(x, columns, spread);
        importance[j] = sum(&of_weights);
        scales[j] = scale_among_19(4.0, x, &of_weights, levels);
    }
    let mut scale_levels = [0; 16];
    let d = scale_among_19(32.0, &scales, &importance, &mut scale_levels);
    put_q3_scales(&mut out[q3_k::SCALES..q3_k::D], &scale_levels);
    put_f16(out, q3_k::D, d);
    finish(x, &mut levels, out);
}

fn super_block(x: &[f32; SUPER_BLOCK], out: &mut [u8; q3_k::BYTES]) {
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let mut scales = [0.0; 16];
    for ((scale, x), levels) in scales.iter_mut().zip(x).zip(levels.as_chunks_mut().0) {
        *scale = scale_by_descent(4.0, x, levels);
    }

    let max_scale = first_largest(&scales);
    let packed = &mut out[q3_k::SCALES..q3_k::D];
    if max_scale == 0.0 {
        packed.fill(0);
        put_f16(out, q3_k::D, 0.0);
    } else {
        let inverse = -32.0 / max_scale;
        // Through a signed byte before the clamp, as in the reference.
        let signed = each(&scales, |scale| low_byte(nearest_int(inverse * scale)).cast_signed());
        put_q3_scales(packed, &each(&signed, |scale| (scale.clamp(-32, 31) + 32).cast_unsigned()));
        put_f16(out, q3_k::D, 1.0 / inverse);
    }

    finish(x, &mut levels, out);
}

/// Stores the best levels for the scales as stored.
#[inline]
fn finish(x: &[[f32; 16]], levels: &mut [u8; SUPER_BLOCK], out: &mut [u8; q3_k::BYTES]) {
    let d = f16(out, q3_k::D);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let scale = q3_scale(&out[q3_k::SCALES..q3_k::D], j);
        signed_levels(4.0, x, d * f32::from(scale), levels);
    }
    put_levels(levels, out);
}

/// Stores levels; what is left of them are the low bits.
pub(crate) fn put_levels(levels: &mut [u8; SUPER_BLOCK], out: &mut [u8]) {
    out[q3_k::HMASK..q3_k::QS].fill(0);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (mask, level) in out[q3_k::HMASK..q3_k::QS].iter_mut().zip(levels) {
            *mask |= (*level >> 2) << bit;
            *level &= 3;
        }
    }
    put_2_bits(&mut out[q3_k::QS..q3_k::SCALES], levels);
}
