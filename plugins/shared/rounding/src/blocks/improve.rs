//! Better codes, multiples and numbers of blocks under the whole Hessian, block by block.
//!
//! With `E = W − Ŵ` the loss is `tr(E H Eᵀ)`, and `Γ = E H` tells for each column what a change is good for. A pass
//! visits each block: in every sub-block each code moves to where the loss is least while all else stays, then `S` and
//! `M` do, then the codes once more; in the end `d` and `m`, in closed form. No step raises the loss.

use std::ops::Range;

use super::{
    scheme::{Minima, Nearest},
    state::State,
};
use crate::{
    Curvature,
    simd::{Lanes, Simd, TILE},
    tile::stored,
};

/// Improves all blocks once, and tells whether anything has changed.
#[inline(always)]
pub(super) fn pass<S: Simd, V: Nearest>(simd: S, curvature: &Curvature, state: &mut State<V>) -> bool {
    let mut changed = false;
    let mut gradient = Vec::new();
    // Changes of errors: nothing but where a sub-block has just been.
    let mut changes = vec![Lanes::ZERO; state.weights.len()];
    for block in 0..state.blocks() {
        let columns = state.columns_of_block(block);
        gradient.clear();
        gradient.resize(columns.len(), Lanes::ZERO);
        for sub_block in state.sub_blocks(block) {
            let own = state.columns_of(sub_block);
            let gradient = &mut gradient[own.start - columns.start..own.end - columns.start];
            let all = 0..state.errors.len();
            curvature.hessian.multiply_from(simd, curvature.panel(own.start), all, &state.errors, gradient);
        }
        for sub_block in state.sub_blocks(block) {
            let own = state.columns_of(sub_block);
            let place = own.start - columns.start..own.end - columns.start;
            changes[own.clone()].copy_from_slice(&state.errors[own.clone()]);
            let mut moved = descend::<S, V>(curvature, sub_block, &mut gradient[place.clone()], state);
            if state.scheme.count > 1 {
                moved |= refit(simd, curvature, sub_block, &mut gradient[place.clone()], state);
                moved |= descend::<S, V>(curvature, sub_block, &mut gradient[place], state);
            }
            if moved {
                changed = true;
                for (change, error) in changes[own.clone()].iter_mut().zip(&state.errors[own.clone()]) {
                    *change = Lanes::of(|lane| error.0[lane] - change.0[lane]);
                }
                for other in state.sub_blocks(block).filter(|other| *other != sub_block) {
                    let its = state.columns_of(other);
                    let gradient = &mut gradient[its.start - columns.start..its.end - columns.start];
                    curvature.hessian.multiply_from(simd, curvature.panel(its.start), own.clone(), &changes, gradient);
                }
            }
        }
        changed |= refit_block(simd, curvature, block, &gradient, state);
    }
    changed
}

/// Moves every code of a sub-block to where the loss is least.
#[inline(always)]
fn descend<S: Simd, V: Nearest>(
    curvature: &Curvature,
    sub_block: usize,
    gradient: &mut [Lanes],
    state: &mut State<V>,
) -> bool {
    let (places, nearest) = (state.columns_of(sub_block), state.nearest);
    let affine = state.affine(sub_block);
    let inverse = affine.inverse();
    let (panel, first) = curvature.panel(places.start);
    let mut changed = false;
    for (index, place) in places.enumerate() {
        let own = curvature.diagonal[place];
        let reciprocal = 1.0 / own;
        let (values, slope) = (&state.values[place], &gradient[index]);
        let mut moved = Lanes::ZERO;
        let mut any = false;
        for lane in 0..TILE {
            let wish = values.0[lane] + slope.0[lane] * reciprocal * inverse.0[lane];
            let value = nearest.nearest::<S>(wish);
            let change = affine.scale.0[lane] * (value - values.0[lane]);
            // What the loss falls by; a tie, or what is lost in rounding, is no reason to move.
            let gain = change * (2.0 * slope.0[lane] - change * own);
            moved.0[lane] = if gain > 0.0 { change } else { 0.0 };
            any |= gain > 0.0;
        }
        if !any {
            continue;
        }
        changed = true;
        let (weight, values) = (&state.weights[place], &mut state.values[place]);
        for lane in 0..TILE {
            let change = moved.0[lane];
            let gain = change * (2.0 * slope.0[lane] - change * own);
            let wish = values.0[lane] + slope.0[lane] * reciprocal * inverse.0[lane];
            values.0[lane] = if change == 0.0 { values.0[lane] } else { nearest.nearest::<S>(wish) };
            state.loss[lane] -= f64::from(gain);
            let made = S::mul_add(affine.scale.0[lane], values.0[lane], affine.offset.0[lane]);
            state.errors[place].0[lane] = weight.0[lane] - made;
        }
        for (offset, gradient) in gradient.iter_mut().enumerate() {
            let shared = curvature.hessian.at(panel, place, first + offset);
            for lane in 0..TILE {
                gradient.0[lane] = S::mul_add(-moved.0[lane], shared, gradient.0[lane]);
            }
        }
    }
    changed
}

/// What a change of weights in two directions is good for: `a` of the first and `b` of the second make the loss fall by
/// `2 (a · first + b · second) − a² · both[0] − 2 a b · both[1] − b² · both[2]`.
#[derive(Clone, Copy)]
struct Plane {
    first: f32,
    second: f32,
    both: [f32; 3],
}

impl Plane {
    #[inline(always)]
    fn gain(&self, a: f32, b: f32) -> f32 {
        2.0 * (a * self.first + b * self.second)
            - a * a * self.both[0]
            - 2.0 * a * b * self.both[1]
            - b * b * self.both[2]
    }

    /// The best `a`, if `b` is free as well or is nothing.
    #[inline(always)]
    fn best_first(&self, free: bool) -> f32 {
        let [aa, ab, bb] = self.both;
        let determinant = aa * bb - ab * ab;
        if free && determinant > 1e-6 * aa * bb {
            (bb * self.first - ab * self.second) / determinant
        } else if aa > 0.0 {
            self.first / aa
        } else {
            0.0
        }
    }

    /// The best `b` for an `a`.
    #[inline(always)]
    fn best_second(&self, a: f32) -> f32 {
        if self.both[2] > 0.0 { (self.second - a * self.both[1]) / self.both[2] } else { 0.0 }
    }
}

/// Products of two directions, and of each with the gradient.
#[derive(Clone, Copy)]
struct Products {
    first: Lanes,
    second: Lanes,
    both: [Lanes; 3],
}

impl Products {
    const ZERO: Self = Self { first: Lanes::ZERO, second: Lanes::ZERO, both: [Lanes::ZERO; 3] };

    #[inline(always)]
    fn plane(&self, lane: usize) -> Plane {
        let both = std::array::from_fn(|at| self.both[at].0[lane]);
        Plane { first: self.first.0[lane], second: self.second.0[lane], both }
    }
}

/// Moves the multiples of a sub-block to where the loss is least for its codes.
#[inline(always)]
fn refit<S: Simd, V: Nearest>(
    simd: S,
    curvature: &Curvature,
    sub_block: usize,
    gradient: &mut [Lanes],
    state: &mut State<V>,
) -> bool {
    let (places, block) = (state.columns_of(sub_block), sub_block / state.scheme.count);
    let (panel, first) = curvature.panel(places.start);
    let mut through = [Lanes::ZERO; super::SUB_BLOCK];
    let through = &mut through[..places.len()];
    curvature.hessian.multiply_from(simd, (panel, first), places.clone(), &state.values, through);
    // Of the minimum every row has the same.
    let mut of_ones = [0.0; super::SUB_BLOCK];
    for place in places.clone() {
        for (offset, sum) in of_ones[..places.len()].iter_mut().enumerate() {
            *sum += curvature.hessian.at(panel, place, first + offset);
        }
    }
    let has_minima = state.scheme.minima != Minima::None;
    let mut products = Products::ZERO;
    for (((value, gradient), through), of_ones) in
        state.values[places.clone()].iter().zip(&*gradient).zip(&*through).zip(of_ones)
    {
        for lane in 0..TILE {
            products.first.0[lane] = S::mul_add(value.0[lane], gradient.0[lane], products.first.0[lane]);
            products.second.0[lane] += gradient.0[lane];
            products.both[0].0[lane] = S::mul_add(value.0[lane], through.0[lane], products.both[0].0[lane]);
            products.both[1].0[lane] += through.0[lane];
            products.both[2].0[lane] += of_ones;
        }
    }
    let range = state.scheme.scales.map(f32::from);
    let most = match state.scheme.minima {
        Minima::Multiples(most) => f32::from(most),
        _ => 0.0,
    };
    let (mut of_scale, mut of_offset) = (Lanes::ZERO, Lanes::ZERO);
    let mut changed = false;
    for lane in 0..TILE {
        let plane = products.plane(lane);
        let (d, m) = (state.d[block].0[lane], state.m[block].0[lane]);
        let (scale, minimum) = (state.scales[sub_block].0[lane], state.minima[sub_block].0[lane]);
        if d == 0.0 {
            continue;
        }
        let wish = scale + plane.best_first(has_minima) / d;
        let mut best = (0.0, scale, minimum);
        for scale_tried in [wish.floor(), wish.ceil()] {
            let scale_tried = scale_tried.clamp(range[0], range[1]);
            let by = d * (scale_tried - scale);
            let minimum_tried = if m > 0.0 {
                (minimum - plane.best_second(by) / m).clamp(0.0, most).round_ties_even()
            } else {
                minimum
            };
            let gain = plane.gain(by, -m * (minimum_tried - minimum));
            if gain > best.0 {
                best = (gain, scale_tried, minimum_tried);
            }
        }
        if best.0 > 0.0 {
            changed = true;
            of_scale.0[lane] = d * (best.1 - scale);
            of_offset.0[lane] = -m * (best.2 - minimum);
            (state.scales[sub_block].0[lane], state.minima[sub_block].0[lane]) = (best.1, best.2);
            state.loss[lane] -= f64::from(best.0);
        }
    }
    if !changed {
        return false;
    }
    recompute::<S, V>(state, places, sub_block);
    for ((gradient, through), of_ones) in gradient.iter_mut().zip(&*through).zip(of_ones) {
        for lane in 0..TILE {
            let change = of_scale.0[lane] * through.0[lane] + of_offset.0[lane] * of_ones;
            gradient.0[lane] -= change;
        }
    }
    true
}

/// The errors of a sub-block anew.
#[inline(always)]
fn recompute<S: Simd, V: Nearest>(state: &mut State<V>, places: Range<usize>, sub_block: usize) {
    let affine = state.affine(sub_block);
    for place in places {
        for lane in 0..TILE {
            let made = S::mul_add(affine.scale.0[lane], state.values[place].0[lane], affine.offset.0[lane]);
            state.errors[place].0[lane] = state.weights[place].0[lane] - made;
        }
    }
}

/// Moves the numbers of a block to where the loss is least for its codes and multiples.
#[inline(always)]
fn refit_block<S: Simd, V: Nearest>(
    simd: S,
    curvature: &Curvature,
    block: usize,
    gradient: &[Lanes],
    state: &mut State<V>,
) -> bool {
    let columns = state.columns_of_block(block);
    let has_minima = state.scheme.minima != Minima::None;
    // A weight is `d · (S v) + m · (−M)`.
    let mut first = vec![Lanes::ZERO; columns.end];
    for sub_block in state.sub_blocks(block) {
        let scales = &state.scales[sub_block];
        for place in state.columns_of(sub_block) {
            first[place] = Lanes::of(|lane| scales.0[lane] * state.values[place].0[lane]);
        }
    }
    let mut products = Products::ZERO;
    for sub_block in state.sub_blocks(block) {
        let own = state.columns_of(sub_block);
        let panel = curvature.panel(own.start);
        // The Hessian is symmetric: what is before a sub-block counts twice.
        let mut through = [Lanes::ZERO; super::SUB_BLOCK];
        let through = &mut through[..own.len()];
        curvature.hessian.multiply_from(simd, panel, columns.start..own.start, &first, through);
        through.iter_mut().flat_map(|through| &mut through.0).for_each(|number| *number *= 2.0);
        curvature.hessian.multiply_from(simd, panel, own.clone(), &first, through);
        for (place, through) in own.clone().zip(&*through) {
            let gradient = &gradient[place - columns.start];
            for lane in 0..TILE {
                let a = first[place].0[lane];
                products.first.0[lane] = S::mul_add(a, gradient.0[lane], products.first.0[lane]);
                products.both[0].0[lane] = S::mul_add(a, through.0[lane], products.both[0].0[lane]);
            }
        }
        if !has_minima {
            continue;
        }
        // The minimum of a sub-block is that of all its columns, so that sums over columns of the Hessian are enough.
        for other in state.sub_blocks(block) {
            let mut of_other = [0.0; super::SUB_BLOCK];
            for row in state.columns_of(other) {
                for (offset, sum) in of_other[..own.len()].iter_mut().enumerate() {
                    *sum += curvature.hessian.at(panel.0, row, panel.1 + offset);
                }
            }
            let all = of_other[..own.len()].iter().sum::<f32>();
            let (its, minima) = (&state.minima[other], &state.minima[sub_block]);
            for lane in 0..TILE {
                products.both[2].0[lane] = S::mul_add(its.0[lane] * minima.0[lane], all, products.both[2].0[lane]);
            }
            for (place, sum) in own.clone().zip(of_other) {
                for lane in 0..TILE {
                    let b = -its.0[lane] * sum;
                    products.both[1].0[lane] = S::mul_add(first[place].0[lane], b, products.both[1].0[lane]);
                }
            }
        }
        let minima = &state.minima[sub_block];
        for place in own {
            let gradient = &gradient[place - columns.start];
            for lane in 0..TILE {
                products.second.0[lane] = S::mul_add(-minima.0[lane], gradient.0[lane], products.second.0[lane]);
            }
        }
    }
    let mut changed = false;
    for lane in 0..TILE {
        let plane = products.plane(lane);
        let (d, m) = (state.d[block].0[lane], state.m[block].0[lane]);
        let by = plane.best_first(has_minima);
        let mut best = (0.0, d, m);
        for new_d in [stored(d + by), d] {
            // A scale does not become nothing, or change its side: the codes would be others then.
            if !(new_d.is_finite() && new_d * d > 0.0) {
                continue;
            }
            let mut new_m = m;
            if has_minima {
                let wish = m + plane.best_second(new_d - d);
                new_m = stored(if state.scheme.minima == Minima::Own { wish } else { wish.max(0.0) });
            }
            let gain = plane.gain(new_d - d, new_m - m);
            if gain > best.0 && new_m.is_finite() {
                best = (gain, new_d, new_m);
            }
        }
        if best.0 > 0.0 {
            changed = true;
            (state.d[block].0[lane], state.m[block].0[lane]) = (best.1, best.2);
            state.loss[lane] -= f64::from(best.0);
        }
    }
    if changed {
        for sub_block in state.sub_blocks(block) {
            recompute::<S, V>(state, state.columns_of(sub_block), sub_block);
        }
    }
    changed
}
