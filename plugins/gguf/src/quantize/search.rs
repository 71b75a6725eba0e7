//! The scale searches of the K-quants: for a sub-block, the levels and the scale that fit it best.
//!
//! Each is one of ggml's `make_*_quants`, with the same operations in the same order: sums run
//! from the first weight to the last in `f32`, and `a * b * c` is `(a * b) * c`. A search that
//! found the same scale with one sum in another order would give other bytes. The searches know
//! nothing of super-blocks; what they call with is what they get.

use super::round::{each, exact, low_byte, nearest_int, nearest_level, truncated_byte};

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

/// Fits `x ≈ scale · level − min` with levels from 0 to `max_level` and `min ≥ 0`; returns scale
/// and min, and leaves the levels in `levels`.
///
/// ggml's `make_qkx2_quants` and `make_qkx3_quants`: for every offset a least-squares fit of scale and minimum to the
/// levels that this offset gives, and the fit of least weighted error is taken. Note that the
/// levels of the next offset are counted from the best minimum so far, while the range stays what
/// it was with the first. When that minimum has come near the maximum, the levels before clamping
/// can be anything, so [`nearest_level`] must be exact on everything.
#[inline]
pub(super) fn scale_and_min<const N: usize>(
    max_level: f32,
    x: &[f32; N],
    importance: &[f32; N],
    levels: &mut [u8; N],
    offsets: Offsets,
    error: Error,
) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = importance[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(importance).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    #[expect(clippy::float_cmp, reason = "all weights are one value, and only then there is nothing to fit")]
    if max == min {
        levels.fill(0);
        return (0.0, -min);
    }

    let weighted_error = |levels: &[f32; N], scale: f32, min: f32| {
        let mut errors = [0.0; N];
        for (((out, &level), &x), &w) in errors.iter_mut().zip(levels).zip(x).zip(importance) {
            let difference = scale * level + min - x;
            *out = w * if error == Error::Absolute { difference.abs() } else { difference * difference };
        }
        errors.iter().fold(0.0, |sum, error| sum + error)
    };
    let levels_of = |inverse: f32, min: f32| each(x, |x| nearest_level(inverse * (x - min), 0.0, max_level));

    let inverse = max_level / (max - min);
    let mut scale = 1.0 / inverse;
    let mut best = levels_of(inverse, min);
    let mut best_error = weighted_error(&best, scale, min);

    // A number that is not positive, NaN among them, becomes zero; one beyond the levels the last.
    let clamped_levels_of = |inverse: f32, min: f32| {
        each(x, |x| {
            let exact = inverse * (x - min);
            let level = nearest_level(if exact < max_level { exact } else { max_level }, 0.0, max_level);
            if exact > 0.0 { level } else { 0.0 }
        })
    };
    for step in 0..offsets.count {
        let inverse = (offsets.first + offsets.step * exact(step) + max_level) / (max - min);
        let tried = if offsets.clamped_before { clamped_levels_of(inverse, min) } else { levels_of(inverse, min) };
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((&l, &x), &w) in tried.iter().zip(x).zip(importance) {
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this_error = weighted_error(&tried, this_scale, this_min);
            if this_error < best_error {
                (best, best_error, scale, min) = (tried, this_error, this_scale, this_min);
            }
        }
    }
    *levels = each(&best, truncated_byte);
    (scale, -min)
}

/// Fits `x ≈ scale · (level − half)` with levels from 0 to `2 · half − 1`; returns the scale, of either
/// sign, and leaves the levels in `levels`.
///
/// ggml's `make_qx_quants` with `rmse_type` 1: nineteen scales around the one that maps the weight
/// of largest magnitude to `−half`, each with the least-squares scale for its levels.
#[inline]
pub(super) fn scale_among_19<const N: usize>(
    half: f32,
    x: &[f32; N],
    importance: &[f32; N],
    levels: &mut [u8; N],
) -> f32 {
    let Some(extreme) = extreme(x) else {
        levels.fill(0);
        return 0.0;
    };
    let products: [f32; N] = std::array::from_fn(|i| importance[i] * x[i]);
    let levels_of = |inverse: f32| each(x, |x| nearest_level(inverse * x, -half, half - 1.0));
    let sums = |levels: &[f32; N]| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for ((&l, &w), &wx) in levels.iter().zip(importance).zip(&products) {
            sum_lx += wx * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };

    let mut best = levels_of(-half / extreme);
    let (sum_lx, sum_l2) = sums(&best);
    let mut scale = if sum_l2 == 0.0 { 0.0 } else { sum_lx / sum_l2 };
    let mut best_gain = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let tried = levels_of(-(half + 0.1 * exact(step)) / extreme);
        let (sum_lx, sum_l2) = sums(&tried);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best_gain * sum_l2 {
            scale = sum_lx / sum_l2;
            best_gain = scale * sum_lx;
            best = tried;
        }
    }
    *levels = each(&best, |level| truncated_byte(level + half));
    scale
}

/// Fits as [`scale_among_19`] does, the square of a weight being its importance, by another way: from the first scale, each level in turn moves
/// to where it serves the common fit best, in at most five rounds.
///
/// ggml's `make_q3_quants` with `do_rmse`.
#[inline]
pub(super) fn scale_by_descent<const N: usize>(half: f32, x: &[f32; N], levels: &mut [u8; N]) -> f32 {
    let Some(extreme) = extreme(x) else {
        levels.fill(0);
        return 0.0;
    };
    let inverse = -half / extreme;
    let mut best = each(x, |x| nearest_level(inverse * x, -half, half - 1.0));
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (&x, &l) in x.iter().zip(&best) {
        let w = x * x;
        sum_lx += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, level) in x.iter().zip(&mut best) {
            let (w, l) = (x * x, *level);
            let without_lx = sum_lx - w * x * l;
            if without_lx > 0.0 {
                let without_l2 = sum_l2 - w * l * l;
                let l = nearest_level(x * without_l2 / without_lx, -half, half - 1.0);
                #[expect(clippy::float_cmp, reason = "integers")]
                if l != *level {
                    let (with_lx, with_l2) = (without_lx + w * x * l, without_l2 + w * l * l);
                    if with_l2 > 0.0 && with_lx * with_lx * sum_l2 > sum_lx * sum_lx * with_l2 {
                        (*level, sum_lx, sum_l2) = (l, with_lx, with_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    *levels = each(&best, |level| truncated_byte(level + half));
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// Fits `x ≈ scale · level` with levels from 0 to `max_level` to numbers that are mostly positive: the
/// scales of sub-blocks, or their minima. Returns the scale, and leaves the levels in `levels`.
///
/// ggml's `make_qp_quants`: of nine scales the best, and from there as in [`scale_by_descent`]. Levels have
/// no lower clamp and are kept in bytes, so that a negative number's wraps; some sums take it from before
/// that and some from after.
#[inline]
pub(super) fn positive_scale<const N: usize>(
    max_level: i32,
    x: &[f32; N],
    importance: &[f32; N],
    levels: &mut [u8; N],
) -> f32 {
    // As the reference's macro chooses: a NaN takes the place, and loses it again.
    let max = x.iter().fold(0.0, |max, &x| if max > x { max } else { x });
    if max < ALL_ZERO {
        levels.fill(0);
        return 0.0;
    }
    let error = |scale: f32, level: &dyn Fn(f32) -> f32| {
        x.iter().zip(importance).fold(0.0, |sum, (&x, &w)| {
            let difference = x - scale * level(x);
            sum + w * difference * difference
        })
    };
    let level = |inverse: f32, x: f32| nearest_int(inverse * x).min(max_level);

    let mut best = exact(max_level) / max;
    let mut best_error = error(1.0 / best, &|x| f32::from(low_byte(nearest_int(best * x))));
    for step in (-4..=4).filter(|&step| step != 0) {
        let inverse = (0.1 * exact(step) + exact(max_level)) / max;
        let this_error = error(1.0 / inverse, &|x| exact(level(inverse, x)));
        if this_error < best_error {
            (best, best_error) = (inverse, this_error);
        }
    }

    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for ((&x, &w), stored) in x.iter().zip(importance).zip(levels.iter_mut()) {
        let l = level(best, x);
        *stored = low_byte(l);
        sum_lx += w * x * exact(l);
        sum_l2 += w * exact(l) * exact(l);
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), stored) in x.iter().zip(importance).zip(levels.iter_mut()) {
            let l = f32::from(*stored);
            let (without_lx, without_l2) = (sum_lx - w * x * l, sum_l2 - w * l * l);
            if without_lx > 0.0 && without_l2 > 0.0 {
                let new = nearest_int(x * without_l2 / without_lx).min(max_level);
                if new != i32::from(*stored) {
                    let l = exact(new);
                    let (with_lx, with_l2) = (without_lx + w * x * l, without_l2 + w * l * l);
                    if with_lx * with_lx * sum_l2 > sum_lx * sum_lx * with_l2 {
                        (*stored, sum_lx, sum_l2) = (low_byte(new), with_lx, with_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// The first weight of the largest magnitude; `None` if all count as zero.
#[inline]
pub(super) fn extreme<const N: usize>(x: &[f32; N]) -> Option<f32> {
    let (mut magnitude, mut extreme) = (0.0, 0.0);
    for &x in x {
        if x.abs() > magnitude {
            (magnitude, extreme) = (x.abs(), x);
        }
    }
    (magnitude >= ALL_ZERO).then_some(extreme)
}
