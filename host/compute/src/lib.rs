//! Arithmetic of transformer layers: what a [`Device`] computes, and the CPU and NVIDIA GPUs as such.
//!
//! It knows numbers and shapes; it knows no model, no file and no format. Work runs on the threads of the
//! rayon pool that the caller has installed, and the results do not depend on how many they are.

mod check;
mod choice;
mod cpu;
mod cuda;
mod device;
mod linear;
mod loss;
mod shapes;

pub use choice::{DeviceChoice, Opened, UnknownDevice};
pub use cpu::{Cpu, InstructionSet};
pub use cuda::{Cuda, Numbers, Weights};
pub use device::{Device, Error};
pub use loss::Divergence;
pub use shapes::{Activation, Attention, Columns, Dtype, Norm, NormKind, Rotation, Stored};
