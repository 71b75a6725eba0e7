//! The float types: a block is one weight.
#![expect(clippy::trivially_copy_pass_by_ref, reason = "blocks are given as those of the other types are")]

use crate::float::{from_bf16, from_f16};

#[inline]
pub(crate) fn f32(bytes: &[u8; 4], [out]: &mut [f32; 1]) {
    *out = f32::from_le_bytes(*bytes);
}

#[inline]
pub(crate) fn f16(bytes: &[u8; 2], [out]: &mut [f32; 1]) {
    *out = from_f16(u16::from_le_bytes(*bytes));
}

#[inline]
pub(crate) fn bf16(bytes: &[u8; 2], [out]: &mut [f32; 1]) {
    *out = from_bf16(u16::from_le_bytes(*bytes));
}
