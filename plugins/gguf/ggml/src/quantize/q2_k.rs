//! Q2_K: 2 bits and a minimum for 16 weights, 4-bit scales and minima.

use super::blocks::{Levels, Table, byte, largest};
use super::dispatch::{Kernel, Weighing};
use super::lanes::Lanes;
use super::minima::Minima;
use super::round::{low_byte, nearest_int};
use super::search::{Error, Offsets, positive_scale};
use crate::layout::{SUPER_BLOCK, f16, put_2_bits, put_f16, q2_k};

const MINIMA: Minima<16, 16> =
    Minima { max_level: 3.0, offsets: Offsets::plain(-0.5, 16), error: Error::Absolute, spread: 1.0 };

/// As ggml's `quantize_row_q2_K_ref`, and with importances as `quantize_row_q2_K_impl`.
pub(super) struct Q2K;

impl Kernel for Q2K {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = q2_k::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let [mut scales, mut mins, mut sums] = [[F::all(0.0); 16]; 3];
        let fits = MINIMA.fits(x, weighing, &mut scales, &mut mins, &mut sums);
        let (mut of_scales, mut of_mins) = (Table::new(), Table::new());
        let (mut d, mut dmin) = (Table::<1>::new(), Table::<1>::new());
        if weighing.is_some() {
            let (found_scales, found_mins) = (scales, mins);
            d.put(0, positive_scale(15.0, &found_scales, &sums, &mut scales));
            dmin.put(0, positive_scale(15.0, &found_mins, &sums, &mut mins));
        }
        for j in 0..16 {
            of_scales.put(j, scales[j]);
            of_mins.put(j, mins[j]);
        }
        for (lane, out) in out.as_chunks_mut::<{ q2_k::BYTES }>().0.iter_mut().enumerate() {
            let (scales, mins) = (of_scales.lane(lane), of_mins.lane(lane));
            if weighing.is_some() {
                put_f16(out, q2_k::D, d.lane(lane)[0]);
                put_f16(out, q2_k::DMIN, dmin.lane(lane)[0]);
                for j in 0..16 {
                    out[q2_k::SCALES + j] = byte(scales[j]) | byte(mins[j]) << 4;
                }
            } else {
                put_scales_and_mins(scales, mins, out);
            }
            let (d, dmin) = (f16(out, q2_k::D), f16(out, q2_k::DMIN));
            for (j, packed) in out[q2_k::SCALES..q2_k::QS].iter().enumerate() {
                scales[j] = d * f32::from(packed & 0xf);
                mins[j] = dmin * f32::from(packed >> 4);
            }
        }
        let mut levels = Levels::new();
        MINIMA.levels(x, weighing, &fits, &of_scales, &of_mins, &mut levels);
        for (lane, out) in out.as_chunks_mut::<{ q2_k::BYTES }>().0.iter_mut().enumerate() {
            put_2_bits(&mut out[q2_k::QS..q2_k::D], levels.lane(lane));
        }
    }
}

#[inline]
fn put_scales_and_mins(scales: &[f32; 16], mins: &[f32; 16], out: &mut [u8; q2_k::BYTES]) {
    let (max_scale, max_min) = (largest(scales), largest(mins));
    let packed = &mut out[q2_k::SCALES..q2_k::QS];
    packed.fill(0);
    if max_scale > 0.0 {
        let inverse = 15.0 / max_scale;
        for (packed, scale) in packed.iter_mut().zip(scales) {
            *packed = low_byte(nearest_int(inverse * scale));
        }
    }
    if max_min > 0.0 {
        let inverse = 15.0 / max_min;
        for (packed, min) in packed.iter_mut().zip(mins) {
            *packed |= low_byte(nearest_int(inverse * min) << 4);
        }
    }
    put_f16(out, q2_k::D, if max_scale > 0.0 { max_scale / 15.0 } else { 0.0 });
    put_f16(out, q2_k::DMIN, if max_min > 0.0 { max_min / 15.0 } else { 0.0 });
}
