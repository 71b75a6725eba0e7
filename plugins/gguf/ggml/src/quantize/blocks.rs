//! What the K-quants share around their searches: weights in lanes, the choice of the super-block's scale,
//! and the final levels for the scales as stored.

use super::lanes::{Bits, Lanes, MOST};
use super::round::{low_byte, nearest_int, nearest_level};
use crate::layout::{SUPER_BLOCK, f16, put_f16, put_scale_and_min, q4_k, q5_k, scale_and_min};

/// The weights of some blocks, one block in each lane: `N` from the one with index `first` on, where a block has `block`.
#[inline(always)]
pub(super) fn weights<F: Lanes, const N: usize>(x: &[f32], block: usize, first: usize) -> [F; N] {
    let mut weights = [F::all(0.0); N];
    for (four, at) in weights.as_chunks_mut::<4>().0.iter_mut().zip((first..).step_by(4)) {
        *four = F::columns(&x[at..], block);
    }
    weights
}

/// The importance of weights in Q2_K: their magnitude.
#[inline(always)]
pub(super) fn absolute<F: Lanes, const N: usize>(x: &[F; N]) -> [F; N] {
    let mut importance = *x;
    for importance in &mut importance {
        *importance = importance.abs();
    }
    importance
}

/// The importance of weights where the reference takes their squares.
#[inline(always)]
pub(super) fn squares<F: Lanes, const N: usize>(x: &[F; N]) -> [F; N] {
    let mut importance = *x;
    for importance in &mut importance {
        *importance = *importance * *importance;
    }
    importance
}

/// The importance of weights in Q4_K and Q5_K: the root mean square of all plus their magnitude.
#[inline(always)]
pub(super) fn rms_plus_absolute<F: Lanes, const N: usize>(x: &[F; N]) -> [F; N] {
    let mut squares = F::all(0.0);
    for &x in x {
        squares = squares + x * x;
    }
    let rms = (squares / F::all(32.0)).sqrt();
    let mut importance = *x;
    for importance in &mut importance {
        *importance = rms + importance.abs();
    }
    importance
}

/// The importance of weights as a search takes it where each column's is given: times the weight's own
/// magnitude, with `spread` added under the root.
#[inline(always)]
pub(super) fn column_times_magnitude<F: Lanes, const N: usize>(x: &[F; N], columns: &[F; N], spread: F) -> [F; N] {
    let mut importance = *columns;
    for (importance, &x) in importance.iter_mut().zip(x) {
        *importance = (spread + x * x).sqrt() * *importance;
    }
    importance
}

/// The sum, from the first to the last.
#[inline(always)]
pub(super) fn sum<F: Lanes>(numbers: &[F]) -> F {
    let mut sum = F::all(0.0);
    for &number in numbers {
        sum = sum + number;
    }
    sum
}

/// The sum of squares of super-blocks, from the first weight to the last.
#[inline(always)]
pub(super) fn sum_of_squares<F: Lanes>(x: &[f32]) -> F {
    let mut sum = F::all(0.0);
    for at in (0..SUPER_BLOCK).step_by(4) {
        for x in F::columns(&x[at..], SUPER_BLOCK) {
            sum = sum + x * x;
        }
    }
    sum
}

/// The largest value, at least zero. NaNs are passed over.
#[inline]
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, &value| if value > largest { value } else { largest })
}

/// The first value of the largest magnitude, with its sign. NaNs are passed over.
#[inline]
pub(super) fn first_largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest: f32, &value| if value.abs() > largest.abs() { value } else { largest })
}

/// A number for each sub-block of each lane, to be looked at lane by lane.
pub(super) struct Table<const SUBS: usize>([[f32; SUBS]; MOST]);

impl<const SUBS: usize> Table<SUBS> {
    /// All zeros.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self([[0.0; SUBS]; MOST])
    }

    /// The numbers of sub-block `j`.
    #[inline(always)]
    pub(super) fn put<F: Lanes>(&mut self, j: usize, numbers: F) {
        let mut lanes = [0.0; MOST];
        numbers.store(&mut lanes);
        for (table, number) in self.0[..F::COUNT].iter_mut().zip(lanes) {
            table[j] = number;
        }
    }

    /// As [`put`](Self::put) has put them.
    #[inline(always)]
    pub(super) fn get<F: Lanes>(&self, j: usize) -> F {
        let mut lanes = [0.0; MOST];
        for (number, table) in lanes.iter_mut().zip(&self.0[..F::COUNT]) {
            *number = table[j];
        }
        F::load(&lanes)
    }

    /// Those of one lane.
    #[inline(always)]
    pub(super) fn lane(&mut self, lane: usize) -> &mut [f32; SUBS] {
        &mut self.0[lane]
    }
}

/// The best levels above a minimum for a scale as stored.
///
/// With a scale of zero they are to stay what the search took, although nothing depends on them any more:
/// the reference stores them, so they are part of its bytes.
#[inline(always)]
pub(super) fn levels_above_min<F: Lanes, const N: usize>(max: f32, x: &[F; N], scale: F, min: F) -> [F; N] {
    let mut levels = *x;
    for level in &mut levels {
        *level = nearest_level((*level + min) / scale, 0.0, max);
    }
    levels
}

/// The best levels for a scale as stored, with `half` added; with a scale of zero as [`levels_above_min`].
#[inline(always)]
pub(super) fn signed_levels<F: Lanes, const N: usize>(half: f32, x: &[F; N], scale: F) -> [F; N] {
    let mut levels = *x;
    for level in &mut levels {
        *level = nearest_level(*level / scale, -half, half - 1.0) + F::all(half);
    }
    levels
}

/// Replaces levels by those that a search took, where the mask says so.
#[inline(always)]
pub(super) fn choose<F: Lanes, const N: usize>(mask: F::Mask, searched: &[F; N], levels: &mut [F; N]) {
    for (level, &searched) in levels.iter_mut().zip(searched) {
        *level = F::choose(mask, searched, *level);
    }
}

/// Levels of super-blocks, one byte for each weight, block by block.
pub(super) struct Levels([[u8; SUPER_BLOCK]; MOST]);

impl Levels {
    /// All zeros.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self([[0; SUPER_BLOCK]; MOST])
    }

    /// Takes down levels of all lanes from weight `first` on; as many as there are, a multiple of four. They are whole
    /// numbers of a byte.
    #[inline(always)]
    pub(super) fn put<F: Lanes>(&mut self, first: usize, levels: &[F]) {
        let magic = F::all(8_388_608.0);
        let mut words = [0; MOST];
        for ([a, b, c, d], at) in levels.as_chunks().0.iter().zip((first..).step_by(4)) {
            // The integers lie in the low bits of these sums. What else is in them adds up to a constant.
            let [a, b, c, d] = [(*a + magic).bits(), (*b + magic).bits(), (*c + magic).bits(), (*d + magic).bits()];
            let four = a + b.up(8) + c.up(16) + d.up(24);
            (four - F::Bits::all(0x4b00_0000)).store(&mut words);
            for (block, word) in self.0[..F::COUNT].iter_mut().zip(words) {
                block[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Those of one lane.
    #[inline(always)]
    pub(super) fn lane(&mut self, lane: usize) -> &mut [u8; SUPER_BLOCK] {
        &mut self.0[lane]
    }
}

/// Fills the head that Q4_K and Q5_K have in common; makes scale and minimum of each sub-block what a reader will see.
#[inline]
pub(super) fn put_scales_and_mins(head: &mut [u8], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    const _: () = assert!(q4_k::D == q5_k::D && q4_k::DMIN == q5_k::DMIN && q4_k::SCALES == q5_k::SCALES);

    let (max_scale, max_min) = (largest(scales), largest(mins));
    let (inverse_scale, inverse_min) = (inverse(max_scale), inverse(max_min));
    put_f16(head, q4_k::D, max_scale / 63.0);
    put_f16(head, q4_k::DMIN, max_min / 63.0);
    let mut packed = [0; 12];
    for j in 0..8 {
        // Cut to a byte before the clamp, as in the reference: a negative scale becomes 63.
        let scale = low_byte(nearest_int(inverse_scale * scales[j])).min(63);
        let min = low_byte(nearest_int(inverse_min * mins[j])).min(63);
        put_scale_and_min(&mut packed, j, scale, min);
    }
    head[q4_k::SCALES..].copy_from_slice(&packed);
    stored_scales_and_mins(head, scales, mins);
}

/// Fills that head with the scale of scales and that of minima, and the levels of both.
#[inline]
pub(super) fn put_found_scales_and_mins(
    head: &mut [u8],
    d: f32,
    dmin: f32,
    scales: &mut [f32; 8],
    mins: &mut [f32; 8],
) {
    put_f16(head, q4_k::D, d);
    put_f16(head, q4_k::DMIN, dmin);
    let mut packed = [0; 12];
    for j in 0..8 {
        put_scale_and_min(&mut packed, j, byte(scales[j]), byte(mins[j]));
    }
    head[q4_k::SCALES..].copy_from_slice(&packed);
    stored_scales_and_mins(head, scales, mins);
}

/// A whole number of a byte.
#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is one")]
pub(super) fn byte(number: f32) -> u8 {
    number as u8
}

/// Scale and minimum of each sub-block as a reader will see them.
#[inline]
fn stored_scales_and_mins(head: &[u8], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let (d, dmin) = (f16(head, q4_k::D), f16(head, q4_k::DMIN));
    let packed: &[u8; 12] = head[q4_k::SCALES..].first_chunk().unwrap_or(&[0; 12]);
    for j in 0..8 {
        let (scale, min) = scale_and_min(packed, j);
        (scales[j], mins[j]) = (d * f32::from(scale), dmin * f32::from(min));
    }
}

#[inline]
fn inverse(max: f32) -> f32 {
    if max > 0.0 { 63.0 / max } else { 0.0 }
}
