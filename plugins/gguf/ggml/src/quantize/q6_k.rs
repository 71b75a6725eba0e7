//! Q6_K: 6 bits for 16 weights, signed 8-bit scales.

use super::blocks::{Levels, Table, choose, first_largest, signed_levels, squares, weights};
use super::dispatch::{Kernel, Weighing};
use super::lanes::{Lanes, MOST, Mask};
use super::round::{low_byte, nearest_int};
use super::search::{ALL_ZERO, SignedFit, scale_among_19};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, q6_k};

/// As ggml's `quantize_row_q6_K_ref`, and with importances as `quantize_row_q6_K_impl`.
pub(super) struct Q6K;

impl Kernel for Q6K {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = q6_k::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let mut fits = [SignedFit::none(); 16];
        let mut scales = Table::new();
        for (j, fit) in fits.iter_mut().enumerate() {
            let of_block: [F; 16] = weights(x, SUPER_BLOCK, j * 16);
            let importance = match weighing {
                Some(weighing) => weights(weighing.columns, SUPER_BLOCK, j * 16),
                None => squares(&of_block),
            };
            *fit = scale_among_19::<F, 16, true>(32.0, &of_block, &importance);
            scales.put(j, fit.scale);
        }
        let mut empty = [false; MOST];
        for (lane, out) in out.as_chunks_mut::<{ q6_k::BYTES }>().0.iter_mut().enumerate() {
            empty[lane] = !put_scales(scales.lane(lane), out);
        }
        let mut levels = Levels::new();
        for (j, fit) in fits.iter().enumerate() {
            let x: [F; 16] = weights(x, SUPER_BLOCK, j * 16);
            let scale: F = scales.get(j);
            let mut of_block = signed_levels(32.0, &x, scale);
            let dead = scale.equals(F::all(0.0));
            if dead.any() {
                choose(dead, &fit.levels(32.0, &x), &mut of_block);
            }
            levels.put(j * 16, &of_block);
        }
        for (lane, out) in out.as_chunks_mut::<{ q6_k::BYTES }>().0.iter_mut().enumerate() {
            if empty[lane] {
                out.fill(0);
            } else {
                put_levels(levels.lane(lane), out);
            }
        }
    }
}

/// Stores the scales that were found, those of sub-blocks and that of scales, and makes of them what a reader will see;
/// or says that all weights count as zero.
#[inline]
fn put_scales(scales: &mut [f32; 16], out: &mut [u8; q6_k::BYTES]) -> bool {
    let max_scale = first_largest(scales);
    if max_scale.abs() < ALL_ZERO {
        return false;
    }
    let inverse = -128.0 / max_scale;
    put_f16(out, q6_k::D, 1.0 / inverse);
    let d = f16(out, q6_k::D);
    for (scale, out) in scales.iter_mut().zip(&mut out[q6_k::SCALES..q6_k::D]) {
        *out = low_byte(nearest_int(inverse * *scale).min(127));
        *scale = d * f32::from(out.cast_signed());
    }
    true
}

/// Stores levels.
pub fn put_levels(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let low = &mut out[q6_k::QL..q6_k::QH];
    for (packed, levels) in low.as_chunks_mut::<64>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = (levels[l] & 0xf) | levels[l + 64] << 4;
        }
    }
    let mut high = *levels;
    for level in &mut high {
        *level >>= 4;
    }
    put_2_bits(&mut out[q6_k::QH..q6_k::SCALES], &high);
}
