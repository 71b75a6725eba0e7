//! From blocks back to weights, bit for bit as ggml's `to_float`: every type that ggml widens.
//!
//! Only a NaN may differ from ggml's in its payload. Sums and products are in `f32` and in ggml's order, so nothing
//! here may use `mul_add`. It knows no tensors and no threads; which type has which function is
//! [`GgmlType`](crate::GgmlType)'s to say.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

pub mod codes;
mod float;
mod grids;
mod iq;
mod k;
mod legacy;
mod mx;
mod ternary;

use std::sync::atomic::{Ordering, compiler_fence};

use qhost_plugin_api::sdk::InstructionSet;

pub(crate) use float::{bf16, f16, f32};
pub(crate) use iq::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs};
pub(crate) use k::{q2_k, q3_k, q4_k, q5_k, q6_k};
pub(crate) use legacy::{q4_0, q4_1, q5_0, q5_1, q8_0};
pub(crate) use mx::{mxfp4, nvfp4};
pub(crate) use ternary::{q1_0, q2_0, tq1_0, tq2_0};

/// Widens blocks, as many as both sides have, with an instruction set.
pub(crate) type Widen = fn(InstructionSet, &[u8], &mut [f32]);

/// Keeps a compiler from working on several blocks, or parts of one, side by side, however close they are: their weights
/// would have to be scattered then. It does nothing.
#[inline(always)]
pub(crate) fn apart() {
    compiler_fence(Ordering::SeqCst);
}

/// A level of a type without minima, which counts from `-half`.
#[inline(always)]
fn signed(level: u8, half: i8) -> f32 {
    f32::from(level.cast_signed() - half)
}
