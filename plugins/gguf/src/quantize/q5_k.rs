//! Q5_K: 5 bits and a minimum for 32 weights, 6-bit scales and minima.

use super::blocks::{levels_above_min, put_scales_and_mins, rms_plus_absolute};
use super::search::{Error, Offsets, scale_and_min};
use crate::layout::{SUPER_BLOCK, q5_k};

/// Quantises whole super-blocks as ggml's `quantize_row_q5_K_ref`.
pub fn q5_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q5_k::BYTES }>().0) {
        super_block(x, out);
    }
}

fn super_block(x: &[f32; SUPER_BLOCK], out: &mut [u8; q5_k::BYTES]) {
    let x = x.as_chunks::<32>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let offsets = Offsets { first: -0.5, count: 16 };
        (scales[j], mins[j]) = scale_and_min(31.0, x, &rms_plus_absolute(x), levels, offsets, Error::Squared);
    }

    let head = &mut out[..q5_k::QH];
    let stored = put_scales_and_mins(head, &scales, &mins);
    for ((x, levels), (scale, min)) in x.iter().zip(levels.as_chunks_mut().0).zip(stored) {
        levels_above_min(31.0, x, scale, min, levels);
    }

    let (head, low) = out.split_at_mut(q5_k::QS);
    let high = &mut head[q5_k::QH..];
    high.fill(0);
    for (bit, levels) in levels.as_chunks::<32>().0.iter().enumerate() {
        for (high, level) in high.iter_mut().zip(levels) {
            *high |= (level >> 4) << bit;
        }
    }
    for (packed, levels) in low.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = (levels[l] & 0xf) | levels[l + 32] << 4;
        }
    }
}
