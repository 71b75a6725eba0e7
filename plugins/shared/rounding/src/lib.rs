//! Rounds matrices to grouped-affine codes so that what a linear gives changes least.
//!
//! It knows arithmetic only: no model, no file, no format. Formats whose weights are `scale · (code − zero)` share it.

mod rounded;

pub use half::f16;
pub use rounded::{Groups, Rounded};
