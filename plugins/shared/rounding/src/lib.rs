//! Rounds matrices to grouped-affine codes so that what a linear gives changes least.
//!
//! A linear gives `W x`; with codes in the place of `W` it gives something else, and the sum of the squares of the
//! difference over many inputs is `tr(E H Eᵀ)` with `E = W − Ŵ` and the Hessian `H = Σ x xᵀ`. What is here makes
//! codes, scales and zeros for which that is small: GPTQ (Frantar et al., 2022) in the form of LDLQ (Chee et al.,
//! 2023, theorem 6, which shows them to be the same), scales searched and fitted under the Hessian, and descent over
//! the codes.
//!
//! It knows arithmetic only: no model, no file, no format, no thread. Formats whose weights are
//! `scale · (code − zero)` share it.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

mod blocks;
mod grid;
mod groups;
mod hessian;
mod improve;
mod nearest;
mod order;
mod panels;
mod rounded;
mod search;
mod simd;
mod sweep;
mod tile;

pub use half::f16;

pub use self::{
    blocks::{Blocks, Minima, Scheme, Values, arrangement, round_blocks},
    grid::Grid,
    groups::round_groups,
    hessian::{Conditioning, Curvature, DampedBy, NotPositive},
    nearest::{energy_of, round_to_nearest},
    order::{Grouping, Order},
    rounded::{Groups, Rounded},
    tile::{Effort, TILE, Tile, round_rows},
};
