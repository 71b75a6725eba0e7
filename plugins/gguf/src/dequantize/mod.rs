//! From blocks back to weights, bit for bit as ggml's `to_float`: every type that ggml widens.
//!
//! Only a NaN may differ from ggml's in its payload. Sums and products are in `f32` and in ggml's order, so nothing
//! here may use `mul_add`. It knows no tensors and no threads; which type has which function is
//! [`GgmlType`](crate::ggml_type::GgmlType)'s to say.

pub(crate) mod codes;
mod float;
mod grids;
mod iq;
mod k;
mod legacy;
mod mx;
mod ternary;

pub(crate) use float::{bf16, f16, f32};
pub(crate) use iq::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs};
pub(crate) use k::{q2_k, q3_k, q4_k, q5_k, q6_k};
pub(crate) use legacy::{q4_0, q4_1, q5_0, q5_1, q8_0};
pub(crate) use mx::{mxfp4, nvfp4};
pub(crate) use ternary::{q1_0, q2_0, tq1_0, tq2_0};

/// Widens blocks, as many as both sides have.
pub(crate) type Widen = fn(&[u8], &mut [f32]);

/// Applies a function to each block and the place of its weights.
#[inline]
pub(crate) fn each<const BYTES: usize, const WEIGHTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; WEIGHTS]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        dequantize(block, out);
    }
}

/// A level of a type without minima, which counts from `-half`.
#[inline]
fn signed(level: u8, half: i8) -> f32 {
    f32::from(level.cast_signed() - half)
}
