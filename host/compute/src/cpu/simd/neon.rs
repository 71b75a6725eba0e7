//! Neon of aarch64.
#![expect(unsafe_code, reason = "vector instructions on pointers")]

use std::arch::aarch64::{float32x4_t, vaddq_f32, vdupq_n_f32, vfmaq_n_f32, vld1q_f32, vst1q_f32};

use super::{Rows, Simd, check_tile, portable};

/// Proves that the machine has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

const ROWS: usize = 6;
const COLUMNS: usize = 16;

impl Simd for Neon {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const FUSED: bool = true;

    #[inline]
    fn multiply(self, a: &[f32], b: &[f32], c: &mut [f32], stride: usize, rows: usize) {
        let depth = check_tile((ROWS, COLUMNS), a, b, c, stride, rows);
        // SAFETY: `self` proves the instructions, `check_tile` the lengths.
        unsafe { kernel(depth, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), stride, rows) }
    }

    #[inline]
    fn multiply_wide(self, a: &[f64], b: &[f64], c: &mut [f64], stride: usize, rows: usize) {
        check_tile((ROWS, COLUMNS / 2), a, b, c, stride, rows);
        portable::multiply::<_, ROWS, { COLUMNS / 2 }>(a, b, c, stride, rows);
    }

    fn interleave(self, rows: Rows<'_>, lanes: usize, out: &mut [f32], stride: usize) {
        portable::interleave(rows, lanes, 0..rows.depth, out, stride);
    }

    fn fetch<T>(self, _: *const T, _: usize) {}

    #[inline]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// A tile, of which the first `rows` rows are stored.
///
/// # Safety
/// `a` has `depth · ROWS` numbers, `b` has `depth · COLUMNS`, and `c` has `rows` rows of `COLUMNS`.
#[target_feature(enable = "neon")]
unsafe fn kernel(depth: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, stride: usize, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums: [[float32x4_t; 4]; ROWS] = [[vdupq_n_f32(0.0); 4]; ROWS];
        for _ in 0..depth {
            let columns = [vld1q_f32(b), vld1q_f32(b.add(4)), vld1q_f32(b.add(8)), vld1q_f32(b.add(12))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let row = *a.add(i);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = vfmaq_n_f32(*sum, column, row);
                }
            }
            a = a.add(ROWS);
            b = b.add(COLUMNS);
        }
        for (i, sums) in sums.iter().enumerate().take(rows) {
            for (j, sum) in sums.iter().enumerate() {
                let c = c.add(i * stride + 4 * j);
                vst1q_f32(c, vaddq_f32(vld1q_f32(c), *sum));
            }
        }
    }
}
