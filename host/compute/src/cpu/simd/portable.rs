//! What every machine computes.

use std::ops::{AddAssign, Mul};

use half::{bf16, f16};

use super::{Rows, Simd, check_interleave, check_tile};
use crate::Dtype;

/// No more than the compiler's baseline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    const ROWS: usize = 4;
    const COLUMNS: usize = 16;
    const FUSED: bool = false;

    fn multiply(self, a: &[f32], b: &[f32], c: &mut [f32], stride: usize, rows: usize) {
        check_tile((4, 16), a, b, c, stride, rows);
        multiply::<_, 4, 16>(a, b, c, stride, rows);
    }

    fn multiply_wide(self, a: &[f64], b: &[f64], c: &mut [f64], stride: usize, rows: usize) {
        check_tile((4, 8), a, b, c, stride, rows);
        multiply::<_, 4, 8>(a, b, c, stride, rows);
    }

    fn interleave(self, rows: Rows<'_>, lanes: usize, out: &mut [f32], stride: usize) {
        interleave(rows, lanes, 0..rows.depth, out, stride);
    }

    fn fetch<T>(self, _: *const T, _: usize) {}

    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// [`Simd::multiply`] by tiles of `H` rows and `W` columns.
pub(super) fn multiply<T, const H: usize, const W: usize>(a: &[T], b: &[T], c: &mut [T], stride: usize, rows: usize)
where
    T: Copy + Default + Mul<Output = T> + AddAssign,
{
    let mut sums = [[T::default(); W]; H];
    for (a, b) in a.as_chunks::<H>().0.iter().zip(b.as_chunks::<W>().0) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += *a * *b;
            }
        }
    }
    for (c, sums) in c.chunks_mut(stride).zip(&sums[..rows]) {
        c.iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum);
    }
}

/// [`Simd::interleave`] of some numbers of each row.
pub(super) fn interleave(rows: Rows<'_>, lanes: usize, depths: std::ops::Range<usize>, out: &mut [f32], stride: usize) {
    check_interleave(&rows, lanes, out, stride);
    let size = rows.dtype.bytes();
    for i in 0..lanes {
        let row = if i < rows.count { &rows.bytes[i * rows.pitch..][..rows.depth * size] } else { &[] };
        for k in depths.clone() {
            out[k * stride + i] = if i < rows.count { widen(&row[k * size..][..size], rows.dtype) } else { 0.0 };
        }
    }
}

#[inline]
fn widen(raw: &[u8], dtype: Dtype) -> f32 {
    match (dtype, raw) {
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => f32::NAN,
    }
}
