//! Some rows of a matrix, rounded together, one in each lane.
//!
//! Rows do not depend on each other; how many are rounded together changes nothing but the speed.

use half::f16;

pub use crate::simd::TILE;
use crate::{
    Curvature, Grid, improve, search,
    simd::{Job, Lanes, Simd, run},
    sweep,
};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Scales that are tried for each group, for either sign.
    pub candidates: usize,
    /// Passes over codes and scales after the first.
    pub passes: usize,
}

/// Rounded rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tile {
    /// Codes, row by row, columns in their original order.
    pub codes: Vec<u8>,
    /// Scales, row by row, groups in the order of the file: by their columns, or as
    /// [`Curvature::listed_groups`] numbers them.
    pub scales: Vec<f16>,
    /// Zeros, likewise.
    pub zeros: Vec<u8>,
    /// `Σ (w − ŵ)ᵀ H (w − ŵ)` over the rows.
    pub loss: f64,
    /// `Σ wᵀ H w` over the rows.
    pub energy: f64,
}

/// Rounds up to [`TILE`] rows of weights, as many as fill `weights`.
///
/// # Panics
/// Panics when `weights` are not whole rows, or too many.
#[must_use]
pub fn round_rows(curvature: &Curvature, grid: Grid, effort: Effort, weights: &[f32]) -> Tile {
    run(Rounding { curvature, grid, effort, weights })
}

struct Rounding<'a> {
    curvature: &'a Curvature,
    grid: Grid,
    effort: Effort,
    weights: &'a [f32],
}

/// The rows at work; columns are in the order in which they are rounded.
pub(crate) struct State {
    /// The weights.
    pub(crate) weights: Vec<Lanes>,
    /// Codes less their zero.
    pub(crate) codes: Vec<Lanes>,
    /// Weights less what stands for them.
    pub(crate) errors: Vec<Lanes>,
    /// The scale of every group.
    pub(crate) scales: Vec<Lanes>,
    /// The zero of every group.
    pub(crate) zeros: Vec<Lanes>,
    /// The loss of every row.
    pub(crate) loss: [f64; TILE],
}

impl Job for Rounding<'_> {
    type Output = Tile;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Tile {
        let Self { curvature, grid, effort, weights } = self;
        let grouping = curvature.grouping;
        let width = grouping.width();
        let rows = weights.len() / width;
        assert!(rows <= TILE && rows * width == weights.len(), "some rows of the width of the Hessian");
        let of_column =
            |column: usize| Lanes::of(|lane| if lane < rows { weights[lane * width + column] } else { 0.0 });
        let mut state = State {
            weights: curvature.columns.iter().map(|&column| of_column(column)).collect(),
            codes: vec![Lanes::ZERO; width],
            errors: vec![Lanes::ZERO; width],
            scales: vec![Lanes::ZERO; grouping.count()],
            zeros: vec![Lanes::ZERO; grouping.count()],
            loss: [0.0; TILE],
        };
        let energy = sweep::energy(simd, curvature, &state.weights);
        let mut scratch = search::Scratch::default();
        sweep::sweep(simd, curvature, grid, effort.candidates, &mut state, &mut scratch);
        for _ in 0..effort.passes {
            if !improve::pass(simd, curvature, grid, &mut state) {
                break;
            }
        }
        let mut tile = Tile {
            codes: vec![0; rows * width],
            scales: vec![f16::ZERO; rows * grouping.count()],
            zeros: vec![0; rows * grouping.count()],
            loss: state.loss[..rows].iter().sum::<f64>() * curvature.unit(),
            energy: energy[..rows].iter().sum::<f64>() * curvature.unit(),
        };
        for (place, &column) in curvature.columns.iter().enumerate() {
            let zero = &state.zeros[place / grouping.size()];
            for row in 0..rows {
                tile.codes[row * width + column] = byte(state.codes[place].0[row] + zero.0[row]);
            }
        }
        for (group, (scales, zeros)) in state.scales.iter().zip(&state.zeros).enumerate() {
            let group = curvature.group_in_file(group);
            for row in 0..rows {
                tile.scales[row * grouping.count() + group] = f16::from_f32(scales.0[row]);
                tile.zeros[row * grouping.count() + group] = byte(zeros.0[row]);
            }
        }
        tile
    }
}

/// A whole number that fits into a byte, as one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "codes and zeros are of the grid")]
pub(crate) fn byte(number: f32) -> u8 {
    number as u8
}

/// The range of a code less its zero.
#[inline(always)]
pub(crate) fn range(grid: Grid, zero: f32) -> (f32, f32) {
    (-zero, f32::from(grid.largest()) - zero)
}

/// What a file can hold of a scale.
#[inline(always)]
pub(crate) fn stored(scale: f32) -> f32 {
    f16::from_f32(scale).to_f32()
}
