//! Q5_K: 5 bits and a minimum for 32 weights, 6-bit scales and minima.

use super::blocks::Levels;
use super::dispatch::{Kernel, Weighing};
use super::lanes::Lanes;
use super::minima::Minima;
use super::search::{Error, Offsets};
use crate::layout::{SUPER_BLOCK, q5_k};

const MINIMA: Minima<32, 8> =
    Minima { max_level: 31.0, offsets: Offsets::plain(-0.5, 16), error: Error::Squared, spread: 2.0 };

/// As ggml's `quantize_row_q5_K_ref`, and with importances as `quantize_row_q5_K_impl`.
pub(super) struct Q5K;

impl Kernel for Q5K {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = q5_k::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let mut levels = Levels::new();
        MINIMA.six_bit_scales::<F>(63.0, x, weighing, out, Self::BYTES, &mut levels);
        for (lane, out) in out.as_chunks_mut::<{ q5_k::BYTES }>().0.iter_mut().enumerate() {
            put_levels(levels.lane(lane), out);
        }
    }
}

/// Stores levels.
pub fn put_levels(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
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
