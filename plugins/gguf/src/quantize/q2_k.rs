//! Q2_K: 2 bits and a minimum for 16 weights, 4-bit scales and minima.

use super::blocks::{absolute, column_times_magnitude, each_block, largest, levels_above_min, sum, sum_of_squares};
use super::round::{each, low_byte, nearest_int};
use super::search::{Error, Offsets, positive_scale, scale_and_min};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, q2_k};

/// Quantises whole super-blocks as ggml's `quantize_row_q2_K_ref`.
pub fn q2_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q2_k::BYTES }>().0) {
        super_block(x, out);
    }
}

/// Quantises whole rows as ggml's `quantize_row_q2_K_impl`; `columns` is the importance of each column.
pub fn q2_k_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, weighted_super_block);
}

fn weighted_super_block(x: &[f32; SUPER_BLOCK], columns: &[f32; SUPER_BLOCK], out: &mut [u8; q2_k::BYTES]) {
    let spread = sum_of_squares(x) / 256.0;
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins, mut importance) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    for (j, ((x, columns), levels)) in x.iter().zip(columns.as_chunks().0).zip(levels.as_chunks_mut().0).enumerate() {
        let of_weights = column_times_magnitude(x, columns, spread);
        importance[j] = sum(&of_weights);
        (scales[j], mins[j]) = scale_and_min(3.0, x, &of_weights, levels, Offsets::WEIGHTED, Error::Squared);
    }
    let (mut packed, mut min_levels) = ([0; 16], [0; 16]);
    let d = positive_scale(15, &scales, &importance, &mut packed);
    let dmin = positive_scale(15, &mins, &importance, &mut min_levels);
    for (packed, min) in packed.iter_mut().zip(min_levels) {
        *packed |= min << 4;
    }
    finish(x, &mut levels, &packed, d, dmin, out);
}

fn super_block(x: &[f32; SUPER_BLOCK], out: &mut [u8; q2_k::BYTES]) {
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let offsets = Offsets::plain(-0.5, 16);
        (scales[j], mins[j]) = scale_and_min(3.0, x, &absolute(x), levels, offsets, Error::Absolute);
    }

    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let mut packed = [0; 16];
    if max_scale > 0.0 {
        let inverse = 15.0 / max_scale;
        packed = each(&scales, |scale| low_byte(nearest_int(inverse * scale)));
    }
    if max_min > 0.0 {
        let inverse = 15.0 / max_min;
        for (packed, min) in packed.iter_mut().zip(mins) {
            *packed |= low_byte(nearest_int(inverse * min) << 4);
        }
    }
    let d = if max_scale > 0.0 { max_scale / 15.0 } else { 0.0 };
    let dmin = if max_min > 0.0 { max_min / 15.0 } else { 0.0 };
    finish(x, &mut levels, &packed, d, dmin, out);
}

/// Stores scales and minima, and the best levels for them as stored.
#[inline]
fn finish(
    x: &[[f32; 16]],
    levels: &mut [u8; SUPER_BLOCK],
    packed: &[u8; 16],
    d: f32,
    dmin: f32,
    out: &mut [u8; q2_k::BYTES],
) {
    out[q2_k::SCALES..q2_k::QS].copy_from_slice(packed);
    put_f16(out, q2_k::D, d);
    put_f16(out, q2_k::DMIN, dmin);

    let (d, dmin) = (f16(out, q2_k::D), f16(out, q2_k::DMIN));
    for ((x, levels), packed) in x.iter().zip(levels.as_chunks_mut().0).zip(packed) {
        levels_above_min(3.0, x, d * f32::from(packed & 0xf), dmin * f32::from(packed >> 4), levels);
    }
    put_2_bits(&mut out[q2_k::QS..q2_k::D], levels);
}
