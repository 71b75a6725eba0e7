//! Q4_K: 4 bits and a minimum for 32 weights, 6-bit scales and minima.

use super::blocks::Levels;
use super::dispatch::{Kernel, Weighing};
use super::lanes::Lanes;
use super::minima::Minima;
use super::search::{Error, Offsets};
use crate::layout::{SUPER_BLOCK, q4_k};

const MINIMA: Minima<32, 8> =
    Minima { max_level: 15.0, offsets: Offsets::plain(-1.0, 21), error: Error::Squared, spread: 2.0 };

/// As ggml's `quantize_row_q4_K_ref`, and with importances as `quantize_row_q4_K_impl`.
pub(super) struct Q4K;

impl Kernel for Q4K {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = q4_k::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let mut levels = Levels::new();
        // They have six bits, but are not cut to them.
        MINIMA.six_bit_scales::<F>(255.0, x, weighing, out, Self::BYTES, &mut levels);
        for (lane, out) in out.as_chunks_mut::<{ q4_k::BYTES }>().0.iter_mut().enumerate() {
            put_levels(levels.lane(lane), out);
        }
    }
}

/// Stores levels.
pub fn put_levels(levels: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    for (packed, levels) in out[q4_k::QS..].as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = levels[l] | levels[l + 32] << 4;
        }
    }
}
