//! Better codes and scales under the whole Hessian, group by group.
//!
//! With `E = W − Ŵ` the loss is `tr(E H Eᵀ)`, and `Γ = E H` tells for each column what a change is good for. A pass visits
//! each group: every code moves to the whole number at which the loss is least while all others stay (coordinate
//! descent; `CDQuant`, 2024), then the scale to where the loss is least for these codes, in closed form. No step raises
//! the loss.

use std::ops::Range;

use crate::{
    Curvature, Grid,
    simd::{Lanes, Simd, TILE},
    tile::{State, range, stored},
};

/// Improves all groups once, and tells whether anything has changed.
#[inline(always)]
pub(crate) fn pass<S: Simd>(simd: S, curvature: &Curvature, grid: Grid, state: &mut State) -> bool {
    let grouping = curvature.grouping;
    let mut changed = false;
    let mut gradient = Vec::new();
    for group in 0..grouping.count() {
        let blocks = curvature.blocks_of(group);
        for block in blocks.clone() {
            gradient_of(simd, curvature, block, &state.errors, &mut gradient);
            changed |= descend::<S>(curvature, grid, group, block, &mut gradient, state);
        }
        // One block has its gradient still; of several, those before the last have moved on.
        if blocks.len() > 1 {
            gradient_of_group(simd, curvature, blocks.clone(), &state.errors, &mut gradient);
        }
        changed |= refit(simd, curvature, group, &mut gradient, state);
        if blocks.len() == 1 {
            changed |= descend::<S>(curvature, grid, group, blocks.start, &mut gradient, state);
        }
    }
    changed
}

/// `E H` of the columns of a block.
#[inline(always)]
fn gradient_of<S: Simd>(simd: S, curvature: &Curvature, block: usize, errors: &[Lanes], out: &mut Vec<Lanes>) {
    out.clear();
    out.resize(curvature.blocks[block].len(), Lanes::ZERO);
    curvature.hessian.multiply(simd, block, 0..errors.len(), errors, out);
}

#[inline(always)]
fn gradient_of_group<S: Simd>(
    simd: S,
    curvature: &Curvature,
    blocks: Range<usize>,
    errors: &[Lanes],
    out: &mut Vec<Lanes>,
) {
    out.clear();
    for block in blocks {
        let first = out.len();
        out.resize(first + curvature.blocks[block].len(), Lanes::ZERO);
        curvature.hessian.multiply(simd, block, 0..errors.len(), errors, &mut out[first..]);
    }
}

/// Moves every code of a block to where the loss is least.
#[inline(always)]
fn descend<S: Simd>(
    curvature: &Curvature,
    grid: Grid,
    group: usize,
    block: usize,
    gradient: &mut [Lanes],
    state: &mut State,
) -> bool {
    let places = curvature.blocks[block].clone();
    let (scale, zero) = (state.scales[group], state.zeros[group]);
    let inverse = Lanes::of(|lane| 1.0 / scale.0[lane]);
    let (mut low, mut high) = (Lanes::ZERO, Lanes::ZERO);
    for lane in 0..TILE {
        (low.0[lane], high.0[lane]) = range(grid, zero.0[lane]);
    }
    let mut changed = false;
    for (index, place) in places.clone().enumerate() {
        let own = curvature.diagonal[place];
        let reciprocal = 1.0 / own;
        let (code, slope) = (&state.codes[place], &gradient[index]);
        let mut steps = Lanes::ZERO;
        let mut any = false;
        for lane in 0..TILE {
            let wish = code.0[lane] + slope.0[lane] * reciprocal * inverse.0[lane];
            let step = S::round(wish.max(low.0[lane]).min(high.0[lane])) - code.0[lane];
            steps.0[lane] = step;
            any |= step != 0.0;
        }
        if !any {
            continue;
        }
        let mut moved = Lanes::ZERO;
        for lane in 0..TILE {
            let change = scale.0[lane] * steps.0[lane];
            // What the loss falls by; a tie, or what is lost in rounding, is no reason to move.
            let gain = change * (2.0 * slope.0[lane] - change * own);
            let step = if gain > 0.0 { steps.0[lane] } else { 0.0 };
            moved.0[lane] = scale.0[lane] * step;
            state.codes[place].0[lane] += step;
            state.loss[lane] -= if gain > 0.0 { f64::from(gain) } else { 0.0 };
        }
        let weight = &state.weights[place];
        for lane in 0..TILE {
            state.errors[place].0[lane] = weight.0[lane] - scale.0[lane] * state.codes[place].0[lane];
        }
        changed |= moved.0.iter().any(|moved| *moved != 0.0);
        for (offset, gradient) in gradient.iter_mut().enumerate() {
            let shared = curvature.hessian.at(block, place, offset);
            for lane in 0..TILE {
                gradient.0[lane] = S::mul_add(-moved.0[lane], shared, gradient.0[lane]);
            }
        }
    }
    changed
}

/// Moves the scale of a group to where the loss is least for its codes.
#[inline(always)]
fn refit<S: Simd>(simd: S, curvature: &Curvature, group: usize, gradient: &mut [Lanes], state: &mut State) -> bool {
    let places = curvature.grouping.places(group);
    let mut through = vec![Lanes::ZERO; places.len()];
    for block in curvature.blocks_of(group) {
        let of_block = &curvature.blocks[block];
        let out = &mut through[of_block.start - places.start..of_block.end - places.start];
        // Only the rows of the group have codes of this scale.
        curvature.hessian.multiply(simd, block, places.clone(), &state.codes, out);
    }
    let (mut above, mut below) = (Lanes::ZERO, Lanes::ZERO);
    for ((code, gradient), through) in state.codes[places.clone()].iter().zip(&*gradient).zip(&through) {
        for lane in 0..TILE {
            above.0[lane] = S::mul_add(code.0[lane], gradient.0[lane], above.0[lane]);
            below.0[lane] = S::mul_add(code.0[lane], through.0[lane], below.0[lane]);
        }
    }
    let mut change = Lanes::ZERO;
    for lane in 0..TILE {
        let old = state.scales[group].0[lane];
        let (above, below) = (above.0[lane], below.0[lane]);
        if below.is_nan() || below <= 0.0 {
            continue;
        }
        let new = stored(old + above / below);
        let step = new - old;
        let gain = step * (2.0 * above - step * below);
        // A scale does not become nothing, or change its side: the codes would be others then.
        if gain > 0.0 && new.is_finite() && new * old > 0.0 {
            change.0[lane] = step;
            state.loss[lane] -= f64::from(gain);
            state.scales[group].0[lane] = new;
        }
    }
    if change.0.iter().all(|change| *change == 0.0) {
        return false;
    }
    let scale = state.scales[group];
    for place in places {
        for lane in 0..TILE {
            state.errors[place].0[lane] = state.weights[place].0[lane] - scale.0[lane] * state.codes[place].0[lane];
        }
    }
    for (gradient, through) in gradient.iter_mut().zip(&through) {
        for lane in 0..TILE {
            gradient.0[lane] = S::mul_add(-change.0[lane], through.0[lane], gradient.0[lane]);
        }
    }
    true
}
