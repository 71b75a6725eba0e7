//! Q3_K: 3 bits for 16 weights, signed 6-bit scales.

use super::blocks::{
    Levels, Table, byte, choose, column_times_magnitude, first_largest, signed_levels, sum, sum_of_squares, weights,
};
use super::dispatch::{Kernel, Weighing};
use super::lanes::{Lanes, Mask, Twice};
use super::round::{low_byte, nearest_int};
use super::search::{SignedFit, scale_among_19, scale_by_descent};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, put_q3_scales, q3_k, q3_scale};

/// As ggml's `quantize_row_q3_K_ref`, and with importances as `quantize_row_q3_K_impl`.
pub(super) struct Q3K;

impl Kernel for Q3K {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = q3_k::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let mut scales = Table::new();
        let mut fits = None;
        if let Some(weighing) = weighing {
            let spread = F::all(2.0) * sum_of_squares(x) / F::all(256.0);
            let [mut found, mut sums] = [[F::all(0.0); 16]; 2];
            let mut of_blocks = [SignedFit::none(); 16];
            for (j, fit) in of_blocks.iter_mut().enumerate() {
                let of_block = weights(x, SUPER_BLOCK, j * 16);
                let columns = weights(weighing.columns, SUPER_BLOCK, j * 16);
                let importance = column_times_magnitude(&of_block, &columns, spread);
                sums[j] = sum(&importance);
                *fit = scale_among_19::<F, 16, true>(4.0, &of_block, &importance);
                found[j] = fit.scale;
            }
            fits = Some(of_blocks);
            // They may be infinite, or none.
            let fit = scale_among_19::<F, 16, false>(32.0, &found, &sums);
            let mut d = Table::<1>::new();
            d.put(0, fit.scale);
            for (j, level) in fit.levels(32.0, &found).into_iter().enumerate() {
                scales.put(j, level);
            }
            for (lane, out) in out.as_chunks_mut::<{ q3_k::BYTES }>().0.iter_mut().enumerate() {
                let mut levels = [0; 16];
                for (level, scale) in levels.iter_mut().zip(scales.lane(lane)) {
                    *level = byte(*scale);
                }
                put_q3_scales(&mut out[q3_k::SCALES..q3_k::D], &levels);
                put_f16(out, q3_k::D, d.lane(lane)[0]);
            }
        } else {
            // Two sub-blocks at once, since each step of this search waits for the one before.
            for j in (0..16).step_by(2) {
                let [first, second]: [[F; 16]; 2] =
                    [weights(x, SUPER_BLOCK, j * 16), weights(x, SUPER_BLOCK, j * 16 + 16)];
                let mut both = [Twice(F::all(0.0), F::all(0.0)); 16];
                for (both, (&first, &second)) in both.iter_mut().zip(first.iter().zip(&second)) {
                    *both = Twice(first, second);
                }
                let mut levels = both;
                let Twice(first, second) = scale_by_descent(4.0, &both, &mut levels);
                scales.put(j, first);
                scales.put(j + 1, second);
            }
            for (lane, out) in out.as_chunks_mut::<{ q3_k::BYTES }>().0.iter_mut().enumerate() {
                put_scales(scales.lane(lane), out);
            }
        }

        for (lane, out) in out.as_chunks::<{ q3_k::BYTES }>().0.iter().enumerate() {
            let d = f16(out, q3_k::D);
            for (j, scale) in scales.lane(lane).iter_mut().enumerate() {
                *scale = d * f32::from(q3_scale(&out[q3_k::SCALES..q3_k::D], j));
            }
        }
        let mut levels = Levels::new();
        for j in 0..16 {
            let x: [F; 16] = weights(x, SUPER_BLOCK, j * 16);
            let mut of_block = signed_levels(4.0, &x, scales.get(j));
            let dead = scales.get::<F>(j).equals(F::all(0.0));
            if dead.any() {
                let mut searched = x;
                if let Some(fits) = &fits {
                    searched = fits[j].levels(4.0, &x);
                } else {
                    // Rare enough to be searched for once more.
                    let _ = scale_by_descent(4.0, &x, &mut searched);
                }
                choose(dead, &searched, &mut of_block);
            }
            levels.put(j * 16, &of_block);
        }
        for (lane, out) in out.as_chunks_mut::<{ q3_k::BYTES }>().0.iter_mut().enumerate() {
            put_levels(levels.lane(lane), out);
        }
    }
}

/// Stores the scales that were found, those of sub-blocks and that of scales.
#[inline]
fn put_scales(scales: &[f32; 16], out: &mut [u8; q3_k::BYTES]) {
    let max_scale = first_largest(scales);
    let packed = &mut out[q3_k::SCALES..q3_k::D];
    if max_scale == 0.0 {
        packed.fill(0);
        put_f16(out, q3_k::D, 0.0);
        return;
    }
    let inverse = -32.0 / max_scale;
    let mut levels = [0; 16];
    for (level, scale) in levels.iter_mut().zip(scales) {
        // Through a signed byte before the clamp, as in the reference.
        let signed = low_byte(nearest_int(inverse * scale)).cast_signed();
        *level = (signed.clamp(-32, 31) + 32).cast_unsigned();
    }
    put_q3_scales(packed, &levels);
    put_f16(out, q3_k::D, 1.0 / inverse);
}

/// Stores levels; what is left of them are the low bits.
pub fn put_levels(levels: &mut [u8; SUPER_BLOCK], out: &mut [u8]) {
    out[q3_k::HMASK..q3_k::QS].fill(0);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (mask, level) in out[q3_k::HMASK..q3_k::QS].iter_mut().zip(levels) {
            *mask |= (*level >> 2) << bit;
            *level &= 3;
        }
    }
    put_2_bits(&mut out[q3_k::QS..q3_k::SCALES], levels);
}
