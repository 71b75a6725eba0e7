//! Eight lanes: AVX2.
#![expect(unsafe_code, reason = "intrinsics")]
#![allow(clippy::wildcard_imports, reason = "there are many, and their names say where they are from")]

use std::{arch::x86_64::*, ops::Not};

use super::{Bits, Lanes, Mask, operators};

/// Eight numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

/// The bits of eight numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bits8(__m256i);

/// All bits of a lane, or none.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Mask8(__m256);

operators! {
    Avx2: Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps;
    Bits8: Add add _mm256_add_epi32, Sub sub _mm256_sub_epi32, BitAnd bitand _mm256_and_si256,
        BitOr bitor _mm256_or_si256;
    Mask8: BitAnd bitand _mm256_and_ps, BitOr bitor _mm256_or_ps;
}

impl Not for Mask8 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: the machine has AVX2 wherever this type is used, as the module above says; so in all that follows.
        Self(unsafe { _mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) })
    }
}

/// Four numbers of every fourth lane.
///
/// # Safety
/// The machine has AVX2, and four numbers are there for each of these lanes.
#[inline(always)]
unsafe fn every_fourth(from: *const f32, pitch: usize) -> __m256 {
    // SAFETY: as the caller promises.
    unsafe { _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from.add(4 * pitch))) }
}

impl Lanes for Avx2 {
    const COUNT: usize = 8;

    type Bits = Bits8;
    type Mask = Mask8;

    #[inline(always)]
    fn all(number: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_set1_ps(number) })
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..8];
        // SAFETY: see above; there are eight numbers.
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: see above; there is room for eight numbers.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn columns(from: &[f32], pitch: usize) -> [Self; 4] {
        let from = &from[..7 * pitch + 4];
        // SAFETY: see above; four numbers of each of eight lanes are there.
        unsafe {
            let first = from.as_ptr();
            let (a, b) = (every_fourth(first, pitch), every_fourth(first.add(pitch), pitch));
            let (c, d) = (every_fourth(first.add(2 * pitch), pitch), every_fourth(first.add(3 * pitch), pitch));
            // Four lanes by four columns, twice.
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [
                Self(_mm256_shuffle_ps::<0x44>(ab, cd)),
                Self(_mm256_shuffle_ps::<0xee>(ab, cd)),
                Self(_mm256_shuffle_ps::<0x44>(ab_high, cd_high)),
                Self(_mm256_shuffle_ps::<0xee>(ab_high, cd_high)),
            ]
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX))) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask8(unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask8(unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask.0) })
    }

    #[inline(always)]
    fn bits(self) -> Self::Bits {
        // SAFETY: see above.
        Bits8(unsafe { _mm256_castps_si256(self.0) })
    }

    #[inline(always)]
    fn truncated(self) -> Self::Bits {
        // SAFETY: see above.
        Bits8(unsafe { _mm256_cvttps_epi32(self.0) })
    }

    /// By Markstein's theorem: the remainder of a quotient that is less than a unit in the last place away, times the
    /// correctly rounded inverse, corrects it to the correctly rounded quotient. The first estimate can be farther away, so
    /// that it is corrected twice.
    #[inline(always)]
    fn quotient(dividend: Self, divisor: Self, inverse: Self) -> Self {
        // SAFETY: see above; where there is AVX2, as we take it, there are fused operations.
        unsafe {
            let estimate = _mm256_mul_ps(dividend.0, inverse.0);
            let remainder = _mm256_fnmadd_ps(estimate, divisor.0, dividend.0);
            let faithful = _mm256_fmadd_ps(remainder, inverse.0, estimate);
            let remainder = _mm256_fnmadd_ps(faithful, divisor.0, dividend.0);
            Self(_mm256_fmadd_ps(remainder, inverse.0, faithful))
        }
    }

    #[inline(always)]
    fn halves(self) -> Self::Bits {
        // SAFETY: see above.
        Bits8(unsafe { _mm256_cvtepu16_epi32(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) })
    }
}

impl Bits for Bits8 {
    type Lanes = Avx2;

    #[inline(always)]
    fn all(bits: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_set1_epi32(bits.cast_signed()) })
    }

    #[inline(always)]
    fn up(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sll_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn down(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sra_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn lanes(self) -> Self::Lanes {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_castsi256_ps(self.0) })
    }

    #[inline(always)]
    fn floats(self) -> Self::Lanes {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_cvtepi32_ps(self.0) })
    }

    #[inline(always)]
    fn store(self, to: &mut [u32]) {
        let to = &mut to[..8];
        // SAFETY: see above; there is room for eight numbers.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
    }
}

impl Mask for Mask8 {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(self.0) != 0 }
    }
}
