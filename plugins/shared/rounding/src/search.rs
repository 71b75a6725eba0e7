//! The scale and zero of a group, before its codes are known.
//!
//! The loss of a column is its conditional variance times the square of the rounding error that is left to it, so the
//! errors are weighed by that. Scales are tried from one at which nothing is clipped down to one at which
//! much is; the best is then fitted to its codes. A scale may be negative: symmetric codes reach further down than up.

use crate::{
    Grid,
    simd::{Lanes, Simd, TILE},
    tile::{range, stored},
};

/// Times that the best scale is fitted to its codes, and codes to the scale.
pub(crate) const FITS: usize = 2;

/// Buffers that are kept between groups.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) targets: Vec<Lanes>,
}

/// A scale and a zero for every lane, and what is lost with them.
#[derive(Clone, Copy)]
struct Best {
    loss: Lanes,
    scale: Lanes,
    zero: Lanes,
}

/// Finds the scale and the zero of a group with these targets and weights of the errors.
#[inline(always)]
pub(crate) fn search<S: Simd>(grid: Grid, candidates: usize, targets: &[Lanes], weights: &[f32]) -> (Lanes, Lanes) {
    let (mut low, mut high) = (Lanes::ZERO, Lanes::ZERO);
    for target in targets {
        for lane in 0..TILE {
            low.0[lane] = low.0[lane].min(target.0[lane]);
            high.0[lane] = high.0[lane].max(target.0[lane]);
        }
    }
    let mut best = Best { loss: Lanes([f32::INFINITY; TILE]), scale: Lanes::ZERO, zero: Lanes::ZERO };
    if grid.symmetric() {
        let middle = f32::from(grid.middle());
        let zero = Lanes([middle; TILE]);
        let reach = Lanes::of(|lane| high.0[lane].max(-low.0[lane]));
        for factor in factors(grid, candidates, middle / (middle - 1.0)) {
            for sign in [1.0, -1.0] {
                let scale = Lanes::of(|lane| stored(sign * factor * reach.0[lane] / middle));
                try_one::<S>(grid, targets, weights, scale, zero, &mut best);
            }
        }
    } else {
        let steps = f32::from(grid.largest());
        for factor in factors(grid, candidates, 1.0) {
            let scale = Lanes::of(|lane| stored(factor * (high.0[lane] - low.0[lane]) / steps));
            // The zero that puts the range in the middle of the targets', and its neighbours.
            let middle = Lanes::of(|lane| {
                let shift = 0.5 * (high.0[lane] + low.0[lane]) / scale.0[lane];
                S::round((0.5 * steps - shift).clamp(-1024.0, 1024.0))
            });
            for shift in [0.0, -1.0, 1.0] {
                // Never 0: a reader of the first version of the format would take it for something else.
                let zero = Lanes::of(|lane| (middle.0[lane] + shift).clamp(1.0, steps));
                try_one::<S>(grid, targets, weights, scale, zero, &mut best);
            }
        }
    }
    for _ in 0..FITS {
        let scale = fit::<S>(grid, targets, weights, &best);
        let zero = best.zero;
        try_one::<S>(grid, targets, weights, scale, zero, &mut best);
    }
    // A group of zeros has any scale but none.
    let scale = Lanes::of(|lane| if best.scale.0[lane] == 0.0 { 1.0 } else { best.scale.0[lane] });
    let zero = if grid.symmetric() {
        Lanes([f32::from(grid.middle()); TILE])
    } else {
        Lanes::of(|lane| best.zero.0[lane].max(1.0))
    };
    (scale, zero)
}

/// Parts of the scale at which nothing is clipped.
#[expect(clippy::cast_precision_loss, reason = "a few steps")]
fn factors(grid: Grid, candidates: usize, first: f32) -> impl Iterator<Item = f32> {
    let last = match grid.bits() {
        2 => 0.4,
        3 => 0.5,
        4 => 0.6,
        _ => 0.9,
    };
    let steps = candidates.max(2) - 1;
    (0..candidates).map(move |step| first - (first - last) * step as f32 / steps as f32)
}

/// Takes a scale and a zero where they lose less.
#[inline(always)]
fn try_one<S: Simd>(grid: Grid, targets: &[Lanes], weights: &[f32], scale: Lanes, zero: Lanes, best: &mut Best) {
    let mut loss = Lanes::ZERO;
    let (mut inverse, mut low, mut high) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for lane in 0..TILE {
        inverse.0[lane] = if scale.0[lane] == 0.0 { 0.0 } else { 1.0 / scale.0[lane] };
        (low.0[lane], high.0[lane]) = range(grid, zero.0[lane]);
    }
    for (target, weight) in targets.iter().zip(weights) {
        for lane in 0..TILE {
            let code = S::round((target.0[lane] * inverse.0[lane]).max(low.0[lane]).min(high.0[lane]));
            let error = S::mul_add(-scale.0[lane], code, target.0[lane]);
            loss.0[lane] = S::mul_add(*weight * error, error, loss.0[lane]);
        }
    }
    for lane in 0..TILE {
        let better = loss.0[lane] < best.loss.0[lane] && scale.0[lane].is_finite();
        best.loss.0[lane] = if better { loss.0[lane] } else { best.loss.0[lane] };
        best.scale.0[lane] = if better { scale.0[lane] } else { best.scale.0[lane] };
        best.zero.0[lane] = if better { zero.0[lane] } else { best.zero.0[lane] };
    }
}

/// The scale that loses least with the codes that the best one so far gives.
#[inline(always)]
fn fit<S: Simd>(grid: Grid, targets: &[Lanes], weights: &[f32], best: &Best) -> Lanes {
    let (mut above, mut below) = (Lanes::ZERO, Lanes::ZERO);
    let (mut inverse, mut low, mut high) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for lane in 0..TILE {
        inverse.0[lane] = if best.scale.0[lane] == 0.0 { 0.0 } else { 1.0 / best.scale.0[lane] };
        (low.0[lane], high.0[lane]) = range(grid, best.zero.0[lane]);
    }
    for (target, weight) in targets.iter().zip(weights) {
        for lane in 0..TILE {
            let code = S::round((target.0[lane] * inverse.0[lane]).max(low.0[lane]).min(high.0[lane]));
            let weighted = *weight * code;
            above.0[lane] = S::mul_add(weighted, target.0[lane], above.0[lane]);
            below.0[lane] = S::mul_add(weighted, code, below.0[lane]);
        }
    }
    Lanes::of(|lane| if below.0[lane] > 0.0 { stored(above.0[lane] / below.0[lane]) } else { best.scale.0[lane] })
}
