//! The first codes: column by column, each at the best place for the errors of those before it.
//!
//! This is GPTQ. A column's target is its weight and what the errors before it add; those of earlier blocks are added
//! for a whole block at once, as a matrix product.

use crate::{
    Curvature, Grid,
    search::{self, Scratch},
    simd::{Lanes, Simd, TILE},
    tile::{State, range},
};

/// `wᵀ H w` of every row.
#[inline(always)]
pub(crate) fn energy<S: Simd>(simd: S, curvature: &Curvature, weights: &[Lanes]) -> [f64; TILE] {
    let mut energy = [0.0; TILE];
    let mut sums = Vec::new();
    for (block, places) in curvature.blocks.iter().enumerate() {
        // Above the diagonal the factor has what is before a column; on it, nothing but the 1 that is left out.
        sums.clear();
        sums.extend_from_slice(&weights[places.clone()]);
        curvature.factor.multiply(simd, block, 0..places.end, weights, &mut sums);
        for (sum, variance) in sums.iter().zip(&curvature.conditional[places.clone()]) {
            for (energy, sum) in energy.iter_mut().zip(&sum.0) {
                *energy += f64::from(*variance * sum * sum);
            }
        }
    }
    energy
}

/// Rounds all columns once.
#[inline(always)]
pub(crate) fn sweep<S: Simd>(
    simd: S,
    curvature: &Curvature,
    grid: Grid,
    candidates: usize,
    state: &mut State,
    scratch: &mut Scratch,
) {
    let grouping = curvature.grouping;
    for group in 0..grouping.count() {
        let places = grouping.places(group);
        let targets = &mut scratch.targets;
        targets.clear();
        targets.extend_from_slice(&state.weights[places.clone()]);
        let blocks = curvature.blocks_of(group);
        for block in blocks.clone() {
            let of_block = &curvature.blocks[block];
            let targets = &mut targets[of_block.start - places.start..of_block.end - places.start];
            curvature.factor.multiply(simd, block, 0..places.start, &state.errors, targets);
        }
        let weights = &curvature.conditional[places.clone()];
        let (scale, zero) = search::search::<S>(grid, candidates, targets, weights);
        (state.scales[group], state.zeros[group]) = (scale, zero);
        for block in blocks {
            let of_block = curvature.blocks[block].clone();
            let targets = &mut targets[of_block.start - places.start..of_block.end - places.start];
            curvature.factor.multiply(simd, block, places.start..of_block.start, &state.errors, targets);
            round_block::<S>(curvature, grid, block, (scale, zero), targets, state);
        }
    }
}

/// Rounds the columns of a block, whose targets lack the errors within the block.
#[inline(always)]
fn round_block<S: Simd>(
    curvature: &Curvature,
    grid: Grid,
    block: usize,
    (scale, zero): (Lanes, Lanes),
    targets: &mut [Lanes],
    state: &mut State,
) {
    let places = curvature.blocks[block].clone();
    let inverse = Lanes::of(|lane| 1.0 / scale.0[lane]);
    let (mut low, mut high) = (Lanes::ZERO, Lanes::ZERO);
    for lane in 0..TILE {
        (low.0[lane], high.0[lane]) = range(grid, zero.0[lane]);
    }
    for (index, place) in places.clone().enumerate() {
        let (done, rest) = targets.split_at_mut(index + 1);
        let target = &done[index];
        let (weight, variance) = (&state.weights[place], curvature.conditional[place]);
        let (mut code, mut error) = (Lanes::ZERO, Lanes::ZERO);
        for lane in 0..TILE {
            let nearest = S::round((target.0[lane] * inverse.0[lane]).max(low.0[lane]).min(high.0[lane]));
            let value = scale.0[lane] * nearest;
            code.0[lane] = nearest;
            error.0[lane] = weight.0[lane] - value;
            let left = target.0[lane] - value;
            state.loss[lane] += f64::from(variance * left * left);
        }
        (state.codes[place], state.errors[place]) = (code, error);
        for (offset, target) in rest.iter_mut().enumerate() {
            let feedback = curvature.factor.at(block, place, index + 1 + offset);
            for lane in 0..TILE {
                target.0[lane] = S::mul_add(error.0[lane], feedback, target.0[lane]);
            }
        }
    }
}
