//! AVX2 with FMA.
#![expect(unsafe_code, reason = "vector instructions that the machine may lack, on pointers")]
#![expect(clippy::cast_ptr_alignment, reason = "they are loaded without alignment")]

use std::arch::x86_64::{
    __m128i, __m256, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_pd, _mm256_add_ps, _mm256_broadcast_sd,
    _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_pd, _mm256_fmadd_ps,
    _mm256_loadu_pd, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_shuffle_ps,
    _mm256_slli_epi32, _mm256_storeu_pd, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use super::{Rows, Simd, check_interleave, check_tile, portable};
use crate::Dtype;

/// Proves that the machine has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

const ROWS: usize = 6;
const COLUMNS: usize = 16;

impl Simd for Avx2 {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const FUSED: bool = true;

    #[inline]
    fn multiply(self, a: &[f32], b: &[f32], c: &mut [f32], stride: usize, rows: usize) {
        type Kernel = unsafe fn(usize, *const f32, *const f32, *mut f32, usize);
        const KERNELS: [Kernel; ROWS] = [narrow::<1>, narrow::<2>, narrow::<3>, narrow::<4>, narrow::<5>, narrow::<6>];
        let depth = check_tile((ROWS, COLUMNS), a, b, c, stride, rows);
        // SAFETY: `self` proves the instructions, the check the lengths.
        unsafe { KERNELS[rows - 1](depth, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), stride) }
    }

    #[inline]
    fn multiply_wide(self, a: &[f64], b: &[f64], c: &mut [f64], stride: usize, rows: usize) {
        type Kernel = unsafe fn(usize, *const f64, *const f64, *mut f64, usize);
        const KERNELS: [Kernel; ROWS] = [wide::<1>, wide::<2>, wide::<3>, wide::<4>, wide::<5>, wide::<6>];
        let depth = check_tile((ROWS, COLUMNS / 2), a, b, c, stride, rows);
        // SAFETY: `self` proves the instructions, the check the lengths.
        unsafe { KERNELS[rows - 1](depth, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), stride) }
    }

    fn interleave(self, rows: Rows<'_>, lanes: usize, out: &mut [f32], stride: usize) {
        check_interleave(&rows, lanes, out, stride);
        let whole = rows.depth / 8 * 8;
        // SAFETY: `self` proves the instructions, `check_interleave` the lengths.
        unsafe { interleave(rows, lanes, whole, out, stride) }
        portable::interleave(rows, lanes, whole..rows.depth, out, stride);
    }

    #[inline]
    fn fetch<T>(self, numbers: *const T, count: usize) {
        for line in (0..count * size_of::<T>()).step_by(64) {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(numbers.cast::<i8>().wrapping_add(line)) };
        }
    }

    #[inline]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: `self` proves the instructions.
        unsafe { vectorize(work) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// A kernel of `R` rows of a tile, `VECTOR` numbers in a vector.
///
/// Its operands are as [`Simd::multiply`] says: `a` has `depth · ROWS` numbers, `b` has `depth` times two vectors,
/// and `c` has `R` rows of two vectors.
macro_rules! kernel {
    ($name:ident, $number:ty, $vector:literal, $zero:ident, $load:ident, $store:ident, $all:ident, $fma:ident, $add:ident) => {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $name<const R: usize>(
            depth: usize,
            mut a: *const $number,
            mut b: *const $number,
            c: *mut $number,
            stride: usize,
        ) {
            // SAFETY: as the caller promises.
            unsafe {
                let mut sums = [[$zero(); 2]; R];
                for _ in 0..depth {
                    let columns = [$load(b), $load(b.add($vector))];
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = $all(&*a.add(i));
                        sums[0] = $fma(row, columns[0], sums[0]);
                        sums[1] = $fma(row, columns[1], sums[1]);
                    }
                    a = a.add(ROWS);
                    b = b.add(2 * $vector);
                }
                for (i, sums) in sums.iter().enumerate() {
                    let c = c.add(i * stride);
                    $store(c, $add($load(c), sums[0]));
                    let c = c.add($vector);
                    $store(c, $add($load(c), sums[1]));
                }
            }
        }
    };
}

kernel!(
    narrow,
    f32,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_broadcast_ss,
    _mm256_fmadd_ps,
    _mm256_add_ps
);
kernel!(
    wide,
    f64,
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_broadcast_sd,
    _mm256_fmadd_pd,
    _mm256_add_pd
);

/// The first `whole` numbers of each row, a multiple of 8.
///
/// # Safety
/// As `check_interleave` checks.
#[target_feature(enable = "avx2,f16c")]
unsafe fn interleave(rows: Rows<'_>, lanes: usize, whole: usize, out: &mut [f32], stride: usize) {
    for first in (0..lanes).step_by(8) {
        let taken = (lanes - first).min(8);
        for k in (0..whole).step_by(8) {
            let mut block = [_mm256_setzero_ps(); 8];
            for (i, block) in (first..rows.count).zip(&mut block) {
                // SAFETY: 8 numbers of a row from `k` on are within its bytes.
                *block =
                    unsafe { widened(rows.bytes.as_ptr().add(i * rows.pitch + k * rows.dtype.bytes()), rows.dtype) };
            }
            for (j, lane) in transposed(block).into_iter().enumerate() {
                let at = (k + j) * stride + first;
                if taken == 8 {
                    // SAFETY: `lanes` numbers from `(k + j) · stride` on are within the panel.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(at), lane) };
                } else {
                    let mut numbers = [0.0; 8];
                    // SAFETY: they are 8.
                    unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), lane) };
                    out[at..at + taken].copy_from_slice(&numbers[..taken]);
                }
            }
        }
    }
}

/// 8 numbers.
///
/// # Safety
/// There are 8 numbers at `raw`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn widened(raw: *const u8, dtype: Dtype) -> __m256 {
    // SAFETY: as the caller promises.
    unsafe {
        match dtype {
            Dtype::F32 => _mm256_loadu_ps(raw.cast()),
            Dtype::F16 => _mm256_cvtph_ps(_mm_loadu_si128(raw.cast::<__m128i>())),
            Dtype::BF16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(raw.cast::<__m128i>()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// The transpose of 8 rows of 8.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..8).step_by(4) {
        for half in 0..2 {
            fours[i + 2 * half] = _mm256_shuffle_ps::<0x44>(pairs[i + half], pairs[i + half + 2]);
            fours[i + 2 * half + 1] = _mm256_shuffle_ps::<0xee>(pairs[i + half], pairs[i + half + 2]);
        }
    }
    // `fours[4 g + c]` has columns c and c + 4 of rows 4 g to 4 g + 3.
    let mut out = fours;
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]);
        out[c + 4] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]);
    }
    out
}
