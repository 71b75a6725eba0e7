//! The scale searches of the K-quants: for the sub-blocks in some lanes, the scales that fit them best.
//!
//! Each is one of ggml's `make_*_quants`, with the same operations in the same order in every lane: sums run
//! from the first weight to the last in `f32`, and `a * b * c` is `(a * b) * c`. A search that
//! found the same scale with one sum in another order would give other bytes. Where the reference leaves a loop
//! early, a lane goes on with the others and comes to nothing new. The searches know nothing of super-blocks.
//!
//! Levels are not kept but made again from what they were rounded with: of the K-quants they only count where the
//! scale as stored is zero.

use super::lanes::{Bits, Lanes, Mask};
use super::round::{exact, nearest, nearest_level, nearest_level_within, nearest_small, wrapped};

/// Below this largest magnitude a sub-block counts as all zero.
pub(super) const ALL_ZERO: f32 = 1e-15;

/// What the error of a weight is, in the search of [`scale_and_min`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    Absolute,
    Squared,
}

/// The scales to try in [`scale_and_min`]: the range is cut into `max_level + offset` steps, for
/// `count` offsets from `first` in steps of `step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) count: i32,
    /// Whether what a level is rounded from is clamped before, too.
    pub(super) clamped_before: bool,
}

impl Offsets {
    /// Those of ggml's `make_qkx2_quants`.
    pub(super) const fn plain(first: f32, count: i32) -> Self {
        Self { first, step: 0.1, count, clamped_before: false }
    }

    /// Those of ggml's `make_qkx3_quants`, wherever importances are given.
    pub(super) const WEIGHTED: Self = Self { first: -0.9, step: 0.05, count: 37, clamped_before: true };
}

/// What [`scale_and_min`] found: `x ≈ scale · level − min`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit<F: Lanes> {
    pub(super) scale: F,
    pub(super) min: F,
    /// The levels were rounded from `inverse · (x − origin)`.
    inverse: F,
    origin: F,
    /// Where they are not those of the first scale.
    improved: F::Mask,
}

impl<F: Lanes> Fit<F> {
    /// Nothing found yet.
    #[inline(always)]
    pub(super) fn none() -> Self {
        let zero = F::all(0.0);
        Self { scale: zero, min: zero, inverse: zero, origin: zero, improved: zero.below(zero) }
    }

    /// The levels that the search took for its best.
    #[inline(always)]
    pub(super) fn levels<const N: usize>(&self, max_level: f32, offsets: Offsets, x: &[F; N]) -> [F; N] {
        let mut levels = *x;
        for level in &mut levels {
            let exact = self.inverse * (*level - self.origin);
            let first = nearest_level(exact, 0.0, max_level);
            // Those of the first scale are not clamped before, in either search.
            *level = if offsets.clamped_before {
                F::choose(self.improved, nearest_level_within(exact, 0.0, max_level), first)
            } else {
                first
            };
        }
        levels
    }
}

/// Fits `x ≈ scale · level − min` with levels from 0 to `max_level` and `min ≥ 0`.
///
/// ggml's `make_qkx2_quants` and `make_qkx3_quants`: for every offset a least-squares fit of scale and minimum to the
/// levels that this offset gives, and the fit of least weighted error is taken. Note that both the levels and the range
/// of the next offset are counted from the best minimum so far. When that minimum has come near the maximum, the levels
/// before clamping can be anything, so [`nearest_level`] must be exact on everything.
#[inline(always)]
pub(super) fn scale_and_min<F: Lanes, const N: usize>(
    max_level: f32,
    x: &[F; N],
    importance: &[F; N],
    offsets: Offsets,
    error: Error,
) -> Fit<F> {
    let (zero, one, top) = (F::all(0.0), F::all(1.0), F::all(max_level));
    let (mut least, mut most) = (x[0], x[0]);
    let mut sum_w = importance[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(importance).skip(1) {
        least = x.lesser(least);
        most = x.greater(most);
        sum_w = sum_w + w;
        sum_x = sum_x + w * x;
    }
    let mut min = F::choose(least.above(zero), zero, least);
    // All weights are one value, and only then there is nothing to fit. What is computed there is thrown away.
    let flat = most.equals(min);
    let flat_min = min;

    let mut levels = [zero; N];
    let (mut inverse, mut origin) = (top / F::choose(flat, one, most - min), min);
    let mut scale = one / inverse;
    if within::<F>(flat, inverse, [zero, most - min]) {
        levels_of::<F, N, true>(x, &mut levels, (inverse, min), max_level);
    } else {
        levels_of::<F, N, false>(x, &mut levels, (inverse, min), max_level);
    }
    let mut best_error = weighted_error(&levels, x, importance, scale, min, error);
    let mut improved = zero.below(zero);
    for step in 0..offsets.count {
        let range = F::choose(flat, one, most - min);
        let tried = F::all(offsets.first + offsets.step * exact(step) + max_level) / range;
        let [sum_l, sum_l2, sum_xl] = if offsets.clamped_before || within(flat, tried, [least - min, most - min]) {
            sums_of::<F, N, true>(x, importance, &mut levels, (tried, min), max_level)
        } else {
            sums_of::<F, N, false>(x, importance, &mut levels, (tried, min), max_level)
        };
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let positive = this_min.above(zero);
        if positive.any() {
            this_min = F::choose(positive, zero, this_min);
            this_scale = F::choose(positive, sum_xl / sum_l2, this_scale);
        }
        let this_error = weighted_error(&levels, x, importance, this_scale, this_min, error);
        let better = determinant.above(zero) & this_error.below(best_error);
        best_error = F::choose(better, this_error, best_error);
        improved = improved | better;
        (inverse, origin) = (F::choose(better, tried, inverse), F::choose(better, min, origin));
        (scale, min) = (F::choose(better, this_scale, scale), F::choose(better, this_min, min));
    }
    Fit {
        scale: F::choose(flat, zero, scale),
        min: zero_minus(F::choose(flat, flat_min, min)),
        inverse: F::choose(flat, zero, inverse),
        origin: F::choose(flat, zero, origin),
        improved,
    }
}

/// Whether levels are rounded from numbers that are small enough for the quick way, except in some lanes. `ends` are the
/// least and the greatest of what the inverse is multiplied with.
#[inline(always)]
fn within<F: Lanes>(except: F::Mask, inverse: F, ends: [F; 2]) -> bool {
    let most = F::all(4e6);
    let [first, last] = ends;
    (except | (inverse * first).abs().below(most) & (inverse * last).abs().below(most)).every()
}

/// The levels of weights; `WITHIN` says that what they are rounded from is small, or is to be clamped before.
#[inline(always)]
fn levels_of<F: Lanes, const N: usize, const WITHIN: bool>(
    x: &[F; N],
    levels: &mut [F; N],
    (inverse, origin): (F, F),
    max_level: f32,
) {
    for (level, &x) in levels.iter_mut().zip(x) {
        *level = level_of::<F, WITHIN>(inverse * (x - origin), max_level);
    }
}

#[inline(always)]
fn level_of<F: Lanes, const WITHIN: bool>(exact: F, max_level: f32) -> F {
    if WITHIN { nearest_level_within(exact, 0.0, max_level) } else { nearest_level(exact, 0.0, max_level) }
}

/// The number with the other sign.
#[inline(always)]
fn zero_minus<F: Lanes>(x: F) -> F {
    x * F::all(-1.0)
}

/// The levels of weights, and the sums of importance · level, of that · level, and of that · weight; as in
/// [`levels_of`].
#[inline(always)]
fn sums_of<F: Lanes, const N: usize, const WITHIN: bool>(
    x: &[F; N],
    importance: &[F; N],
    levels: &mut [F; N],
    (inverse, origin): (F, F),
    max_level: f32,
) -> [F; 3] {
    let [mut sum_l, mut sum_l2, mut sum_xl] = [F::all(0.0); 3];
    for ((&x, &w), stored) in x.iter().zip(importance).zip(levels) {
        let l = level_of::<F, WITHIN>(inverse * (x - origin), max_level);
        *stored = l;
        let wl = w * l;
        sum_l = sum_l + wl;
        sum_l2 = sum_l2 + wl * l;
        sum_xl = sum_xl + wl * x;
    }
    [sum_l, sum_l2, sum_xl]
}

#[inline(always)]
fn weighted_error<F: Lanes, const N: usize>(
    levels: &[F; N],
    x: &[F; N],
    importance: &[F; N],
    scale: F,
    min: F,
    error: Error,
) -> F {
    let mut sum = F::all(0.0);
    for ((&level, &x), &w) in levels.iter().zip(x).zip(importance) {
        let difference = scale * level + min - x;
        sum = sum + w * if error == Error::Absolute { difference.abs() } else { difference * difference };
    }
    sum
}

/// What [`scale_among_19`] found: `x ≈ scale · level`, with levels of either sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignedFit<F: Lanes, const FINITE: bool> {
    pub(super) scale: F,
    /// The levels were rounded from `inverse · x`.
    inverse: F,
    /// Where all weights count as zero, and so have the lowest level.
    zero: F::Mask,
}

impl<F: Lanes, const FINITE: bool> SignedFit<F, FINITE> {
    /// Nothing found yet.
    #[inline(always)]
    pub(super) fn none() -> Self {
        let zero = F::all(0.0);
        Self { scale: zero, inverse: zero, zero: zero.equals(zero) }
    }

    /// The levels that the search took for its best, counted from zero.
    #[inline(always)]
    pub(super) fn levels<const N: usize>(&self, half: f32, x: &[F; N]) -> [F; N] {
        let mut levels = *x;
        for level in &mut levels {
            let exact = self.inverse * *level;
            let found = if FINITE {
                nearest_level_within(exact, -half, half - 1.0)
            } else {
                nearest_level(exact, -half, half - 1.0)
            };
            *level = F::choose(self.zero, F::all(0.0), found + F::all(half));
        }
        levels
    }
}

/// Fits `x ≈ scale · level` with levels from `-half` to `half - 1`; the scale has either sign.
///
/// ggml's `make_qx_quants` with `rmse_type` 1: nineteen scales around the one that maps the weight
/// of largest magnitude to `−half`, each with the least-squares scale for its levels. `FINITE` says that the numbers are;
/// then what levels are rounded from is small.
#[inline(always)]
pub(super) fn scale_among_19<F: Lanes, const N: usize, const FINITE: bool>(
    half: f32,
    x: &[F; N],
    importance: &[F; N],
) -> SignedFit<F, FINITE> {
    let none = F::all(0.0);
    let (extreme, zero) = extreme(x);
    // What is computed of zeros is thrown away.
    let extreme = F::choose(zero, F::all(1.0), extreme);
    let mut products = [none; N];
    for ((product, &x), &w) in products.iter_mut().zip(x).zip(importance) {
        *product = w * x;
    }

    let one_by_extreme = F::all(1.0) / extreme;
    // Those that count as zero are out of the way; what is too large for the quick way is rare.
    let usual = FINITE && extreme.abs().below(F::all(1e30)).every();
    let mut inverse = F::all(-half) / extreme;
    let (sum_lx, sum_l2) = if FINITE {
        fit_sums::<F, N, NOT_BELOW>(x, importance, &products, inverse, half)
    } else {
        fit_sums::<F, N, ANYTHING>(x, importance, &products, inverse, half)
    };
    let mut scale = F::choose(sum_l2.equals(none), none, sum_lx / sum_l2);
    let mut best_gain = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let dividend = F::all(lowest(half, step));
        let tried = if usual { F::quotient(dividend, extreme, one_by_extreme) } else { dividend / extreme };
        let (sum_lx, sum_l2) = if !FINITE {
            fit_sums::<F, N, ANYTHING>(x, importance, &products, tried, half)
        } else if step < -5 {
            // No weight is larger than the extreme, and that is mapped to less than half a level beyond the last.
            fit_sums::<F, N, BETWEEN>(x, importance, &products, tried, half)
        } else if step < 5 {
            // It is not mapped to half a level beyond the lowest, which is one more away.
            fit_sums::<F, N, NOT_BELOW>(x, importance, &products, tried, half)
        } else {
            fit_sums::<F, N, SMALL>(x, importance, &products, tried, half)
        };
        let better = sum_l2.above(none) & (sum_lx * sum_lx).above(best_gain * sum_l2);
        let this_scale = sum_lx / sum_l2;
        scale = F::choose(better, this_scale, scale);
        best_gain = F::choose(better, this_scale * sum_lx, best_gain);
        inverse = F::choose(better, tried, inverse);
    }
    SignedFit { scale: F::choose(zero, none, scale), inverse, zero }
}

/// The level to which the extreme is mapped in a step of [`scale_among_19`].
#[inline(always)]
pub(super) fn lowest(half: f32, step: i32) -> f32 {
    -(half + 0.1 * exact(step))
}

/// What [`fit_sums`] may round levels from: numbers that nothing is known of, small ones, small ones that are nearest
/// to no level below the lowest, and those that are nearest to a level.
const ANYTHING: u8 = 0;
const SMALL: u8 = 1;
const NOT_BELOW: u8 = 2;
const BETWEEN: u8 = 3;

/// The sums of importance · weight · level and of importance · level · level.
#[inline(always)]
fn fit_sums<F: Lanes, const N: usize, const FROM: u8>(
    x: &[F; N],
    importance: &[F; N],
    products: &[F; N],
    inverse: F,
    half: f32,
) -> (F, F) {
    let (mut sum_lx, mut sum_l2) = (F::all(0.0), F::all(0.0));
    for ((&x, &w), &wx) in x.iter().zip(importance).zip(products) {
        let l = match FROM {
            BETWEEN => nearest_small(inverse * x),
            NOT_BELOW => nearest_small((inverse * x).lesser(F::all(half - 1.0))),
            SMALL => nearest_level_within(inverse * x, -half, half - 1.0),
            _ => nearest_level(inverse * x, -half, half - 1.0),
        };
        sum_lx = sum_lx + wx * l;
        sum_l2 = sum_l2 + w * l * l;
    }
    (sum_lx, sum_l2)
}

/// Fits as [`scale_among_19`] does, the square of a weight being its importance, by another way: from the first scale,
/// each level in turn moves to where it serves the common fit best, in at most five rounds. Returns the scale, and leaves
/// the levels, counted from zero, in `levels`.
///
/// ggml's `make_q3_quants` with `do_rmse`.
#[inline(always)]
pub(super) fn scale_by_descent<F: Lanes, const N: usize>(half: f32, x: &[F; N], levels: &mut [F; N]) -> F {
    let none = F::all(0.0);
    let (extreme, zero) = extreme(x);
    let inverse = F::all(-half) / F::choose(zero, F::all(1.0), extreme);
    let (mut sum_lx, mut sum_l2) = (none, none);
    for (&x, level) in x.iter().zip(levels.iter_mut()) {
        let (w, l) = (x * x, nearest_level_within(inverse * x, -half, half - 1.0));
        *level = l;
        sum_lx = sum_lx + w * x * l;
        sum_l2 = sum_l2 + w * l * l;
    }
    for _ in 0..5 {
        let mut changed = none.below(none);
        for (&x, level) in x.iter().zip(levels.iter_mut()) {
            let (w, l) = (x * x, *level);
            let wx = w * x;
            let (without_lx, without_l2) = (sum_lx - wx * l, sum_l2 - w * l * l);
            let new = nearest_level(x * without_l2 / without_lx, -half, half - 1.0);
            let (with_lx, with_l2) = (without_lx + wx * new, without_l2 + w * new * new);
            let better = (with_lx * with_lx * sum_l2).above(sum_lx * sum_lx * with_l2);
            let moves = without_lx.above(none) & with_l2.above(none) & better & !new.equals(l);
            *level = F::choose(moves, new, l);
            sum_lx = F::choose(moves, with_lx, sum_lx);
            sum_l2 = F::choose(moves, with_l2, sum_l2);
            changed = changed | moves;
        }
        if !changed.any() {
            break;
        }
    }
    for level in levels.iter_mut() {
        *level = F::choose(zero, none, *level + F::all(half));
    }
    let scale = F::choose(sum_l2.above(none), sum_lx / sum_l2, none);
    F::choose(zero, none, scale)
}

/// Fits `x ≈ scale · level` with levels from 0 to `max_level` to numbers that are mostly positive: the
/// scales of sub-blocks, or their minima. Returns the scale, and leaves the levels in `levels`.
///
/// ggml's `make_qp_quants`: of nine scales the best, and from there as in [`scale_by_descent`]. Levels have
/// no lower clamp and are kept in bytes, so that a negative number's wraps; some sums take it from before
/// that and some from after.
#[inline(always)]
pub(super) fn positive_scale<F: Lanes, const N: usize>(
    max_level: f32,
    x: &[F; N],
    importance: &[F; N],
    levels: &mut [F; N],
) -> F {
    let (none, top) = (F::all(0.0), F::all(max_level));
    // As the reference's macro chooses: a NaN takes the place, and loses it again.
    let mut max = none;
    for &x in x {
        max = max.greater(x);
    }
    let zero = max.below(F::all(ALL_ZERO));

    let mut best = top / max;
    let mut best_error = none;
    for (&x, &w) in x.iter().zip(importance) {
        let difference = x - F::all(1.0) / best * wrapped(nearest(best * x).floats());
        best_error = best_error + w * difference * difference;
    }
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = F::all(0.1 * exact(step) + max_level) / max;
        let scale = F::all(1.0) / tried;
        let mut error = none;
        for (&x, &w) in x.iter().zip(importance) {
            let difference = x - scale * nearest(tried * x).floats().lesser(top);
            error = error + w * difference * difference;
        }
        let better = error.below(best_error);
        best = F::choose(better, tried, best);
        best_error = F::choose(better, error, best_error);
    }
    let (mut sum_lx, mut sum_l2) = (none, none);
    for ((&x, &w), stored) in x.iter().zip(importance).zip(levels.iter_mut()) {
        let l = nearest(best * x).floats().lesser(top);
        *stored = wrapped(l);
        sum_lx = sum_lx + w * x * l;
        sum_l2 = sum_l2 + w * l * l;
    }
    for _ in 0..5 {
        let mut changed = none.below(none);
        for ((&x, &w), stored) in x.iter().zip(importance).zip(levels.iter_mut()) {
            let l = *stored;
            let (without_lx, without_l2) = (sum_lx - w * x * l, sum_l2 - w * l * l);
            let new = nearest(x * without_l2 / without_lx).floats().lesser(top);
            let (with_lx, with_l2) = (without_lx + w * x * new, without_l2 + w * new * new);
            let better = (with_lx * with_lx * sum_l2).above(sum_lx * sum_lx * with_l2);
            let moves = without_lx.above(none) & without_l2.above(none) & better & !new.equals(l);
            *stored = F::choose(moves, wrapped(new), l);
            sum_lx = F::choose(moves, with_lx, sum_lx);
            sum_l2 = F::choose(moves, with_l2, sum_l2);
            changed = changed | moves;
        }
        if !changed.any() {
            break;
        }
    }
    for level in levels.iter_mut() {
        *level = F::choose(zero, none, *level);
    }
    F::choose(sum_l2.above(none) & !zero, sum_lx / sum_l2, none)
}

/// The first weight of the largest magnitude, and where all count as zero.
#[inline(always)]
pub(super) fn extreme<F: Lanes, const N: usize>(x: &[F; N]) -> (F, F::Mask) {
    let extreme = first_largest(x);
    (extreme, extreme.abs().below(F::all(ALL_ZERO)))
}

/// The first of the largest magnitude, with its sign; a positive zero among zeros.
#[inline(always)]
pub(super) fn first_largest<F: Lanes, const N: usize>(x: &[F; N]) -> F {
    let (mut least, mut most) = (F::all(0.0), F::all(0.0));
    for &x in x {
        least = x.lesser(least);
        most = x.greater(most);
    }
    let magnitude = least.abs();
    if (magnitude.equals(most) & most.above(F::all(0.0))).any() {
        // Both signs have it; which comes first is found the slow way.
        return first_largest_of_equals(x);
    }
    F::choose(magnitude.above(most), least, most)
}

#[inline(always)]
fn first_largest_of_equals<F: Lanes, const N: usize>(x: &[F; N]) -> F {
    let mut largest = F::all(0.0);
    for &x in x {
        largest = F::choose(x.abs().above(largest.abs()), x, largest);
    }
    largest
}
