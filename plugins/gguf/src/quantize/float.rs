//! F32, F16 and BF16: a conversion each.

use crate::float::{to_bf16, to_f16};

/// Stores binary32.
pub(super) fn f32(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut().0) {
        *out = x.to_le_bytes();
    }
}

/// Rounds to binary16, to nearest even; what is too large becomes infinite.
pub(super) fn f16(x: &[f32], out: &mut [u8]) {
    for (&x, out) in x.iter().zip(out.as_chunks_mut().0) {
        *out = to_f16(x).to_le_bytes();
    }
}

/// Rounds to bf16, to nearest even.
pub(super) fn bf16(x: &[f32], out: &mut [u8]) {
    for (&x, out) in x.iter().zip(out.as_chunks_mut().0) {
        *out = to_bf16(x).to_le_bytes();
    }
}
