//! The first codes: block by block, and in it column by column, each at the best place for the errors before it.

use super::{
    scheme::{Minima, Nearest},
    search::{Free, free, multiples, numbers},
    state::State,
};
use crate::{
    Curvature,
    simd::{Lanes, Simd, TILE},
};

/// Rounds all columns once.
#[inline(always)]
pub(super) fn sweep<S: Simd, V: Nearest>(simd: S, curvature: &Curvature, candidates: usize, state: &mut State<V>) {
    let (scheme, nearest) = (state.scheme, state.nearest);
    let mut targets = Vec::new();
    let mut of_sub_blocks: Vec<Free> = Vec::new();
    for block in 0..state.blocks() {
        let columns = state.columns_of_block(block);
        targets.clear();
        targets.extend_from_slice(&state.weights[columns.clone()]);
        for sub_block in state.sub_blocks(block) {
            let own = state.columns_of(sub_block);
            let targets = &mut targets[own.start - columns.start..own.end - columns.start];
            curvature.factor.multiply_from(simd, curvature.panel(own.start), 0..columns.start, &state.errors, targets);
        }
        of_sub_blocks.clear();
        for (targets, weights) in
            targets.chunks_exact(scheme.size).zip(curvature.conditional[columns.clone()].chunks_exact(scheme.size))
        {
            of_sub_blocks.push(free::<S, V>(&scheme, nearest, candidates, targets, weights));
        }
        (state.d[block], state.m[block]) = numbers::<S>(&scheme, &of_sub_blocks);
        for (sub_block, free) in state.sub_blocks(block).zip(&of_sub_blocks) {
            let own = state.columns_of(sub_block);
            let targets = &mut targets[own.start - columns.start..own.end - columns.start];
            let before = columns.start..own.start;
            curvature.factor.multiply_from(simd, curvature.panel(own.start), before, &state.errors, targets);
            if scheme.count > 1 {
                let (units, weights) = ((&state.d[block], &state.m[block]), &curvature.conditional[own.clone()]);
                let (scales, minima) = multiples::<S, V>(&scheme, nearest, units, &free.affine, targets, weights);
                (state.scales[sub_block], state.minima[sub_block]) = (scales, minima);
            } else if scheme.minima == Minima::None {
                state.minima[sub_block] = Lanes::ZERO;
            }
            round::<S, V>(curvature, sub_block, targets, state);
        }
    }
}

/// Rounds the columns of a sub-block, whose targets lack the errors within it.
#[inline(always)]
fn round<S: Simd, V: Nearest>(curvature: &Curvature, sub_block: usize, targets: &mut [Lanes], state: &mut State<V>) {
    let (places, nearest) = (state.columns_of(sub_block), state.nearest);
    let affine = state.affine(sub_block);
    let inverse = affine.inverse();
    let (panel, first) = curvature.panel(places.start);
    for (index, place) in places.enumerate() {
        let (done, rest) = targets.split_at_mut(index + 1);
        let target = &done[index];
        let (weight, variance) = (&state.weights[place], curvature.conditional[place]);
        let (mut values, mut errors) = (Lanes::ZERO, Lanes::ZERO);
        for lane in 0..TILE {
            let value = nearest.nearest::<S>((target.0[lane] - affine.offset.0[lane]) * inverse.0[lane]);
            let made = S::mul_add(affine.scale.0[lane], value, affine.offset.0[lane]);
            values.0[lane] = value;
            errors.0[lane] = weight.0[lane] - made;
            let left = target.0[lane] - made;
            state.loss[lane] += f64::from(variance * left * left);
        }
        (state.values[place], state.errors[place]) = (values, errors);
        for (offset, target) in rest.iter_mut().enumerate() {
            let feedback = curvature.factor.at(panel, place, first + index + 1 + offset);
            for lane in 0..TILE {
                target.0[lane] = S::mul_add(errors.0[lane], feedback, target.0[lane]);
            }
        }
    }
}
