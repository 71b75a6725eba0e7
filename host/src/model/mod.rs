//! What a checkpoint means: its family, hyperparameters, units, and the role of every tensor.
//!
//! It knows checkpoint names and shapes; it knows no files, no formats and no plugin.

mod error;
mod expected;
mod families;
mod family;
mod folds;
mod forward;
mod hyperparameters;
mod inventory;
mod text_part;
mod widening;

pub use error::Error;
pub use expected::{expected, of_parameters};
pub use families::{FAMILIES, find};
pub use family::{Dim, Entry, Family, Heads, Layers, Positions, Presence, Windows};
pub use forward::{Blocks, Factor, Forward, Fused, Gate, Norm, Order, Pairs, Rotated, Routing, Scores};
pub use inventory::{Understood, understand};
pub use widening::{StoredAs, Widening};
