//! Rounding each weight for itself, in groups whose scales hold their range: what everything else is held against.

use half::f16;

use crate::{
    Curvature, Grid, TILE,
    simd::{Job, Lanes, Simd, run},
    sweep,
};

/// `Σ vᵀ H v` over up to [`TILE`] rows `v`, columns in their original order: the loss of rows whose errors these are.
///
/// # Panics
/// Panics when these are no whole rows, or too many.
#[must_use]
pub fn energy_of(curvature: &Curvature, rows: &[f32]) -> f64 {
    run(Energy { curvature, rows })
}

struct Energy<'a> {
    curvature: &'a Curvature,
    rows: &'a [f32],
}

impl Job for Energy<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let Self { curvature, rows } = self;
        let width = curvature.grouping.width();
        let count = rows.len() / width;
        assert!(count <= TILE && count * width == rows.len(), "some rows of the width of the Hessian");
        let of_column = |column: usize| Lanes::of(|lane| if lane < count { rows[lane * width + column] } else { 0.0 });
        let lanes: Vec<_> = curvature.columns.iter().map(|&column| of_column(column)).collect();
        sweep::energy(simd, curvature, &lanes)[..count].iter().sum::<f64>() * curvature.unit()
    }
}

/// The weights of one group as its nearest codes stand for them, in the place of the weights.
///
/// The range of the group, and zero, is divided evenly into the grid's steps, as 16-bit floats hold them.
pub fn round_to_nearest(grid: Grid, weights: &mut [f32]) {
    let (low, high) = weights.iter().fold((0.0_f32, 0.0_f32), |(low, high), w| (low.min(*w), high.max(*w)));
    let largest = f32::from(grid.largest());
    let (scale, zero) = if grid.symmetric() {
        (2.0 * high.max(-low) / largest, f32::from(grid.middle()))
    } else {
        let scale = (high - low) / largest;
        (scale, if scale > 0.0 { (-low / scale).round_ties_even().clamp(0.0, largest) } else { 0.0 })
    };
    let scale = f16::from_f32(scale).to_f32();
    if scale == 0.0 {
        return;
    }
    for weight in weights {
        let code = ((*weight / scale).round_ties_even() + zero).clamp(0.0, largest);
        *weight = scale * (code - zero);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest_of_an_even_division() {
        let mut weights = [-1.0, 0.2, 0.5, 2.0];
        round_to_nearest(Grid::new(2, false).unwrap(), &mut weights);
        assert_eq!(weights.map(f32::to_bits), [-1.0_f32, 0.0, 0.0, 2.0].map(f32::to_bits));
        let mut weights = [-0.75, 0.2, 0.75, 0.0];
        round_to_nearest(Grid::new(2, true).unwrap(), &mut weights);
        assert_eq!(weights.map(f32::to_bits), [-1.0_f32, 0.0, 0.5, 0.0].map(|w| (w * 1.0).to_bits()));
        let mut nothing = [0.0; 3];
        round_to_nearest(Grid::new(4, false).unwrap(), &mut nothing);
        assert!(nothing.iter().all(|weight| *weight == 0.0));
    }
}
