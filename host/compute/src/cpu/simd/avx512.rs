//! AVX-512.
#![expect(unsafe_code, reason = "vector instructions that the machine may lack, on pointers")]
#![expect(clippy::cast_ptr_alignment, reason = "they are loaded without alignment")]

use std::arch::x86_64::{
    __m256i, __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256, _mm512_add_pd, _mm512_add_ps,
    _mm512_castpd_ps, _mm512_castps_pd, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_pd,
    _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_set1_pd, _mm512_set1_ps,
    _mm512_setzero_pd, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_pd, _mm512_storeu_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{Rows, Simd, check_interleave, check_tile, portable};
use crate::Dtype;

/// Proves that the machine has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

const ROWS: usize = 14;
const COLUMNS: usize = 32;

impl Simd for Avx512 {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const FUSED: bool = true;

    #[inline]
    fn multiply(self, a: &[f32], b: &[f32], c: &mut [f32], stride: usize, rows: usize) {
        type Kernel = unsafe fn(usize, *const f32, *const f32, *mut f32, usize);
        const KERNELS: [Kernel; ROWS] = [
            narrow::<1>,
            narrow::<2>,
            narrow::<3>,
            narrow::<4>,
            narrow::<5>,
            narrow::<6>,
            narrow::<7>,
            narrow::<8>,
            narrow::<9>,
            narrow::<10>,
            narrow::<11>,
            narrow::<12>,
            narrow::<13>,
            narrow::<14>,
        ];
        let depth = check_tile((ROWS, COLUMNS), a, b, c, stride, rows);
        // SAFETY: `self` proves the instructions, the check the lengths.
        unsafe { KERNELS[rows - 1](depth, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), stride) }
    }

    #[inline]
    fn multiply_wide(self, a: &[f64], b: &[f64], c: &mut [f64], stride: usize, rows: usize) {
        type Kernel = unsafe fn(usize, *const f64, *const f64, *mut f64, usize);
        const KERNELS: [Kernel; ROWS] = [
            wide::<1>, wide::<2>, wide::<3>, wide::<4>, wide::<5>, wide::<6>, wide::<7>, wide::<8>, wide::<9>,
            wide::<10>, wide::<11>, wide::<12>, wide::<13>, wide::<14>,
        ];
        let depth = check_tile((ROWS, COLUMNS / 2), a, b, c, stride, rows);
        // SAFETY: `self` proves the instructions, the check the lengths.
        unsafe { KERNELS[rows - 1](depth, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), stride) }
    }

    fn interleave(self, rows: Rows<'_>, lanes: usize, out: &mut [f32], stride: usize) {
        check_interleave(&rows, lanes, out, stride);
        let whole = rows.depth / 16 * 16;
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// A kernel of `R` rows of a tile, `VECTOR` numbers in a vector.
///
/// Its operands are as [`Simd::multiply`] says: `a` has `depth · ROWS` numbers, `b` has `depth` times two vectors,
/// and `c` has `R` rows of two vectors.
macro_rules! kernel {
    ($name:ident, $number:ty, $vector:literal, $zero:ident, $load:ident, $store:ident, $all:ident, $fma:ident, $add:ident) => {
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const R: usize>(
            depth: usize,
            mut a: *const $number,
            mut b: *const $number,
            c: *mut $number,
            stride: usize,
        ) {
            // SAFETY: as the caller promises; a prefetch may name any address.
            unsafe {
                for i in 0..R {
                    _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride).cast());
                    _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * stride + $vector).cast());
                }
                let mut sums = [[$zero(); 2]; R];
                for _ in 0..depth {
                    let columns = [$load(b), $load(b.add($vector))];
                    _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(ROWS * 32).cast());
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = $all(*a.add(i));
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
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
kernel!(
    wide,
    f64,
    8,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd
);

/// The first `whole` numbers of each row, a multiple of 16.
///
/// # Safety
/// As `check_interleave` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn interleave(rows: Rows<'_>, lanes: usize, whole: usize, out: &mut [f32], stride: usize) {
    let mask = u16::MAX >> (16 - lanes);
    for k in (0..whole).step_by(16) {
        let mut block = [_mm512_setzero_ps(); 16];
        for (i, block) in block.iter_mut().enumerate() {
            if i < rows.count {
                // SAFETY: 16 numbers of a row from `k` on are within its bytes.
                *block = unsafe {
                    let raw = rows.bytes.as_ptr().add(i * rows.pitch + k * rows.dtype.bytes());
                    _mm_prefetch::<_MM_HINT_T1>(raw.wrapping_add(rows.ahead).cast());
                    widened(raw, rows.dtype)
                };
            }
        }
        for (j, lane) in transposed(&block).into_iter().enumerate() {
            // SAFETY: `lanes` numbers from `(k + j) · stride` on are within the panel.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr().add((k + j) * stride), mask, lane) };
        }
    }
}

/// 16 numbers.
///
/// # Safety
/// There are 16 numbers at `raw`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn widened(raw: *const u8, dtype: Dtype) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        match dtype {
            Dtype::F32 => _mm512_loadu_ps(raw.cast()),
            Dtype::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(raw.cast::<__m256i>())),
            Dtype::BF16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(raw.cast::<__m256i>()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
    }
}

/// The transpose of 16 rows of 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512; 16]) -> [__m512; 16] {
    let mut pairs = *rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        for half in 0..2 {
            let (low, high) = (_mm512_castps_pd(pairs[i + half]), _mm512_castps_pd(pairs[i + half + 2]));
            fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    // `fours[4 g + c]` has columns c, c + 4, c + 8 and c + 12 of rows 4 g to 4 g + 3.
    let mut out = fours;
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(d, e)];
        out[c] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        out[c + 8] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        out[c + 4] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        out[c + 12] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
    out
}
