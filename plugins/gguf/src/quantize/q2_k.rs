//! Q2_K: 2 bits and a minimum for 16 weights, 4-bit scales and minima.

use super::blocks::{absolute, largest, levels_above_min};
use super::round::{each, low_byte, nearest_int};
use super::search::{Error, Offsets, scale_and_min};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, q2_k};

/// Quantises whole super-blocks as ggml's `quantize_row_q2_K_ref`.
pub fn q2_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<{ q2_k::BYTES }>().0) {
        super_block(x, out);
    }
}

fn super_block(x: &[f32; SUPER_BLOCK], out: &mut [u8; q2_k::BYTES]) {
    let x = x.as_chunks::<16>().0;
    let mut levels = [0; SUPER_BLOCK];
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    for (j, (x, levels)) in x.iter().zip(levels.as_chunks_mut().0).enumerate() {
        let offsets = Offsets { first: -0.5, count: 16 };
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
    out[q2_k::SCALES..q2_k::QS].copy_from_slice(&packed);
    put_f16(out, q2_k::D, if max_scale > 0.0 { max_scale / 15.0 } else { 0.0 });
    put_f16(out, q2_k::DMIN, if max_min > 0.0 { max_min / 15.0 } else { 0.0 });

    let (d, dmin) = (f16(out, q2_k::D), f16(out, q2_k::DMIN));
    for ((x, levels), packed) in x.iter().zip(levels.as_chunks_mut().0).zip(packed) {
        levels_above_min(3.0, x, d * f32::from(packed & 0xf), dmin * f32::from(packed >> 4), levels);
    }
    put_2_bits(&mut out[q2_k::QS..q2_k::D], &levels);
}
