//! The float types: a block is one weight.

use crate::float::{from_bf16, from_f16};

#[inline(always)]
pub(crate) fn f32(bytes: &[u8; 4], [out]: &mut [f32; 1]) {
    *out = f32::from_le_bytes(*bytes);
}

#[inline(always)]
pub(crate) fn f16(bytes: &[u8; 2], [out]: &mut [f32; 1]) {
    *out = from_f16(u16::from_le_bytes(*bytes));
}

#[inline(always)]
pub(crate) fn bf16(bytes: &[u8; 2], [out]: &mut [f32; 1]) {
    *out = from_bf16(u16::from_le_bytes(*bytes));
}
