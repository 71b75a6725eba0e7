//! Arithmetic of transformer layers: what a [`Device`] computes, and the CPU as one.
//!
//! It knows numbers and shapes; it knows no model, no file and no format. Work runs on the threads of the
//! rayon pool that the caller has installed, and the results do not depend on how many they are.

mod cpu;
mod device;
mod linear;
mod loss;
mod shapes;

pub use cpu::{Cpu, InstructionSet};
pub use device::{Device, Error};
pub use loss::Divergence;
pub use shapes::{Activation, Attention, Columns, Dtype, Norm, NormKind, Rotation, Stored};
