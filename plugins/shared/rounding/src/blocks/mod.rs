//! Rounds matrices to blocks whose scales, and perhaps minima, are whole multiples of a number of the block.
//!
//! A weight is `d · S · v − m · M`: `v` is the value of its code, `S` and `M` are small whole numbers of its sub-block,
//! `d` and `m` 16-bit floats of the block. All of them are chosen for the least `tr(E H Eᵀ)`: scales by the conditional
//! variances of the columns, on targets that have the errors of what was rounded before; codes by GPTQ; and then all of
//! it once more under the whole Hessian, as long as the loss falls. It knows arithmetic and no block's bytes.

mod fit;
mod improve;
mod scheme;
mod search;
mod state;
mod sweep;

use half::f16;

pub use self::scheme::{Minima, Scheme, Values};
use self::{
    scheme::{Book, Nearest, Whole},
    state::State,
};
use crate::{
    Curvature, Effort, Grouping, Order, TILE,
    simd::{Job, Lanes, Simd, run},
    sweep::energy,
};

/// Rounded rows; everything is in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Blocks {
    /// For every weight the place of its value, from the least on, row by row.
    pub codes: Vec<u8>,
    /// `S` of every sub-block, row by row.
    pub scales: Vec<i8>,
    /// `M` of every sub-block, row by row.
    pub minima: Vec<u8>,
    /// `d` of every block, row by row.
    pub d: Vec<f16>,
    /// `m` of every block, row by row.
    pub m: Vec<f16>,
    /// `Σ (w − ŵ)ᵀ H (w − ŵ)` over the rows.
    pub loss: f64,
    /// `Σ wᵀ H w` over the rows.
    pub energy: f64,
}

/// The longest block.
const LONGEST: usize = 256;

/// Columns of a sub-block, at most; blocks of columns of a Hessian are as long.
const SUB_BLOCK: usize = 32;

/// How inputs are conditioned whose weights are rounded to blocks: the groups and the order, for any scheme that fits.
///
/// None when the width is no multiple of 32.
#[must_use]
pub fn arrangement(width: usize) -> Option<(Grouping, Order)> {
    let outer = if width.is_multiple_of(LONGEST) { LONGEST } else { SUB_BLOCK };
    Grouping::new(width, SUB_BLOCK).map(|grouping| (grouping, Order::Nested { outer, inner: SUB_BLOCK / 2 }))
}

/// Rounds up to [`TILE`] rows of weights, as many as fill `weights`, under a Hessian that is arranged for it
/// ([`arrangement`]).
///
/// # Panics
/// Panics when `weights` are not whole rows of whole blocks, or too many.
#[must_use]
pub fn round_blocks(curvature: &Curvature, scheme: &Scheme, effort: Effort, weights: &[f32]) -> Blocks {
    run(Rounding { curvature, scheme, effort, weights })
}

struct Rounding<'a> {
    curvature: &'a Curvature,
    scheme: &'a Scheme,
    effort: Effort,
    weights: &'a [f32],
}

impl Job for Rounding<'_> {
    type Output = Blocks;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Blocks {
        match self.scheme.values {
            Values::Whole { least, greatest } => self.with(simd, Whole::new(least, greatest)),
            Values::Book(values) => self.with(simd, Book::new(values)),
        }
    }
}

impl Rounding<'_> {
    #[inline(always)]
    fn with<S: Simd, V: Nearest>(&self, simd: S, values: V) -> Blocks {
        let Self { curvature, scheme, effort, weights } = *self;
        let width = curvature.grouping.width();
        let rows = weights.len() / width;
        assert!(rows <= TILE && rows * width == weights.len(), "some rows of the width of the Hessian");
        assert!(width.is_multiple_of(scheme.columns()), "rows are whole blocks");
        let of_column =
            |column: usize| Lanes::of(|lane| if lane < rows { weights[lane * width + column] } else { 0.0 });
        let weights: Vec<_> = curvature.columns.iter().map(|&column| of_column(column)).collect();
        let energy = energy(simd, curvature, &weights);
        let mut state = State::new(*scheme, values, weights);
        sweep::sweep(simd, curvature, effort.candidates, &mut state);
        for _ in 0..effort.passes {
            if !improve::pass(simd, curvature, &mut state) {
                break;
            }
        }
        state.take(curvature, rows, &energy)
    }
}
