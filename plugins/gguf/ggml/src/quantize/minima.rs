//! What the K-quants with minima do alike: Q2_K, Q4_K and Q5_K find scale and minimum of each sub-block, and then the levels
//! for them as stored. In between, each stores them in its own way.

use super::blocks::{
    Levels, Table, absolute, choose, column_times_magnitude, levels_above_min, put_found_scales_and_mins,
    put_scales_and_mins, rms_plus_absolute, sum, sum_of_squares, weights,
};
use super::dispatch::Weighing;
use super::lanes::{Lanes, Mask};
use super::search::{Error, Fit, Offsets, positive_scale, scale_and_min};
use crate::layout::{SUPER_BLOCK, q4_k};

/// How a type is quantised; `N` weights are in a sub-block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Minima<const N: usize, const SUBS: usize> {
    pub(super) max_level: f32,
    /// The search without importances given.
    pub(super) offsets: Offsets,
    pub(super) error: Error,
    /// Times the mean square of the super-block: what is added to a weight's square where importances are given.
    pub(super) spread: f32,
}

impl<const N: usize, const SUBS: usize> Minima<N, SUBS> {
    /// Scale and minimum of each sub-block, and the sum of its importances if some are given.
    #[inline(always)]
    pub(super) fn fits<F: Lanes>(
        &self,
        x: &[f32],
        weighing: Option<&Weighing<'_>>,
        scales: &mut [F; SUBS],
        mins: &mut [F; SUBS],
        sums: &mut [F; SUBS],
    ) -> [Fit<F>; SUBS] {
        let mut fits = [Fit::none(); SUBS];
        let spread = match weighing {
            Some(_) => F::all(self.spread) * sum_of_squares(x) / F::all(256.0),
            None => F::all(0.0),
        };
        for (j, fit) in fits.iter_mut().enumerate() {
            let of_block: [F; N] = weights(x, SUPER_BLOCK, j * N);
            *fit = if let Some(weighing) = weighing {
                let columns = weights(weighing.columns, SUPER_BLOCK, j * N);
                let importance = column_times_magnitude(&of_block, &columns, spread);
                sums[j] = sum(&importance);
                scale_and_min(self.max_level, &of_block, &importance, Offsets::WEIGHTED, Error::Squared)
            } else if N == 16 {
                scale_and_min(self.max_level, &of_block, &absolute(&of_block), self.offsets, self.error)
            } else {
                scale_and_min(self.max_level, &of_block, &rms_plus_absolute(&of_block), self.offsets, self.error)
            };
            (scales[j], mins[j]) = (fit.scale, fit.min);
        }
        fits
    }

    /// The best levels for scales and minima as stored.
    #[inline(always)]
    pub(super) fn levels<F: Lanes>(
        &self,
        x: &[f32],
        weighing: Option<&Weighing<'_>>,
        fits: &[Fit<F>; SUBS],
        scales: &Table<SUBS>,
        mins: &Table<SUBS>,
        levels: &mut Levels,
    ) {
        let offsets = if weighing.is_some() { Offsets::WEIGHTED } else { self.offsets };
        for (j, fit) in fits.iter().enumerate() {
            let x: [F; N] = weights(x, SUPER_BLOCK, j * N);
            let (scale, min) = (scales.get::<F>(j), mins.get::<F>(j));
            let mut of_block = levels_above_min(self.max_level, &x, scale, min);
            let dead = scale.equals(F::all(0.0));
            if dead.any() {
                choose(dead, &fit.levels(self.max_level, offsets, &x), &mut of_block);
            }
            levels.put(j * N, &of_block);
        }
    }
}

impl Minima<32, 8> {
    /// Quantises super-blocks with 6-bit scales and minima: fills the heads of blocks of `block` bytes, and gives the levels.
    ///
    /// The levels of scales and minima are cut to `most`, where importances are given.
    #[inline(always)]
    pub(super) fn six_bit_scales<F: Lanes>(
        &self,
        most: f32,
        x: &[f32],
        weighing: Option<&Weighing<'_>>,
        out: &mut [u8],
        block: usize,
        levels: &mut Levels,
    ) {
        let [mut scales, mut mins, mut sums] = [[F::all(0.0); 8]; 3];
        let fits = self.fits(x, weighing, &mut scales, &mut mins, &mut sums);
        let (mut of_scales, mut of_mins) = (Table::new(), Table::new());
        let (mut d, mut dmin) = (Table::<1>::new(), Table::<1>::new());
        if weighing.is_some() {
            let (found_scales, found_mins) = (scales, mins);
            d.put(0, positive_scale(63.0, &found_scales, &sums, &mut scales));
            dmin.put(0, positive_scale(63.0, &found_mins, &sums, &mut mins));
            for level in scales.iter_mut().chain(&mut mins) {
                *level = level.lesser(F::all(most));
            }
        }
        for j in 0..8 {
            of_scales.put(j, scales[j]);
            of_mins.put(j, mins[j]);
        }
        for (lane, out) in out.chunks_exact_mut(block).take(F::COUNT).enumerate() {
            let (head, scales, mins) = (&mut out[..q4_k::QS], of_scales.lane(lane), of_mins.lane(lane));
            if weighing.is_some() {
                put_found_scales_and_mins(head, d.lane(lane)[0], dmin.lane(lane)[0], scales, mins);
            } else {
                put_scales_and_mins(head, scales, mins);
            }
        }
        self.levels(x, weighing, &fits, &of_scales, &of_mins, levels);
    }
}
