//! Q6_K: 6 bits for 16 weights, signed 8-bit scales.

use super::blocks::{each_block, first_largest, signed_levels};
use super::round::{each, low_byte, nearest_int};
use super::search::{ALL_ZERO, scale_among_19};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, q6_k};

/// Quantises whole super-blocks as ggml's `quantize_row_q6_K_ref`.
pub fn q6_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q6_k::BYTES }>().0) {
        super_block(x, &each(x, |x| x * x), out);
    }
}

/// Quantises whole rows as ggml's `quantize_row_q6_K_impl`; `columns` is the importance of each column.
pub fn q6_k_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, super_block);
}

fn super_block(x: &[f32; SUPER_BLOCK], importance: &[f32; SUPER_BLOCK], out: &mut [u8; q6_k::BYTES]) {
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let mut scales = [0.0; 16];
    let parts = x.iter().zip(importance.as_chunks().0).zip(levels.as_chunks_mut().0);
    for (scale, ((x, importance), levels)) in scales.iter_mut().zip(parts) {
        *scale = scale_among_19(32.0, x, importance, levels);
    }

    let max_scale = first_largest(&scales);
    if max_scale.abs() < ALL_ZERO {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / max_scale;
    put_f16(out, q6_k::D, 1.0 / inverse);
    let d = f16(out, q6_k::D);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let scale = low_byte(nearest_int(inverse * scales[j]).min(127));
        out[q6_k::SCALES + j] = scale;
        signed_levels(32.0, x, d * f32::from(scale.cast_signed()), levels);
    }
    put_levels(&levels, out);
}

/// Stores levels.
pub(crate) fn put_levels(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let low = &mut out[q6_k::QL..q6_k::QH];
    for (packed, levels) in low.as_chunks_mut::<64>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = (levels[l] & 0xf) | levels[l + 64] << 4;
        }
    }
    put_2_bits(&mut out[q6_k::QH..q6_k::SCALES], &each(levels, |level| level >> 4));
}
