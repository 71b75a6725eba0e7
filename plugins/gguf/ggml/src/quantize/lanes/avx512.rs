//! Sixteen lanes: AVX-512.
#![expect(unsafe_code, reason = "intrinsics")]
#![allow(clippy::wildcard_imports, reason = "there are many, and their names say where they are from")]

use std::{arch::x86_64::*, ops::Not};

use super::{Bits, Lanes, Mask, operators};

/// Sixteen numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

/// The bits of sixteen numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bits16(__m512i);

/// A bit for each lane.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Mask16(__mmask16);

operators! {
    Avx512: Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps;
    Bits16: Add add _mm512_add_epi32, Sub sub _mm512_sub_epi32, BitAnd bitand _mm512_and_si512,
        BitOr bitor _mm512_or_si512;
    Mask16: BitAnd bitand _kand_mask16, BitOr bitor _kor_mask16;
}

impl Not for Mask16 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: the machine has AVX-512 wherever this type is used, as the module above says; so in all that follows.
        Self(unsafe { _knot_mask16(self.0) })
    }
}

/// Four numbers of every fourth lane.
///
/// # Safety
/// The machine has AVX-512, and four numbers are there for each of these lanes.
#[inline(always)]
unsafe fn every_fourth(from: *const f32, pitch: usize) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        let all = _mm512_castps128_ps512(_mm_loadu_ps(from));
        let all = _mm512_insertf32x4::<1>(all, _mm_loadu_ps(from.add(4 * pitch)));
        let all = _mm512_insertf32x4::<2>(all, _mm_loadu_ps(from.add(8 * pitch)));
        _mm512_insertf32x4::<3>(all, _mm_loadu_ps(from.add(12 * pitch)))
    }
}

impl Lanes for Avx512 {
    const COUNT: usize = 16;

    type Bits = Bits16;
    type Mask = Mask16;

    #[inline(always)]
    fn all(number: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(number) })
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..16];
        // SAFETY: see above; there are sixteen numbers.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..16];
        // SAFETY: see above; there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn columns(from: &[f32], pitch: usize) -> [Self; 4] {
        let from = &from[..15 * pitch + 4];
        // SAFETY: see above; four numbers of each of sixteen lanes are there.
        unsafe {
            let first = from.as_ptr();
            let (a, b) = (every_fourth(first, pitch), every_fourth(first.add(pitch), pitch));
            let (c, d) = (every_fourth(first.add(2 * pitch), pitch), every_fourth(first.add(3 * pitch), pitch));
            // Four lanes by four columns, four times.
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            [
                Self(_mm512_shuffle_ps::<0x44>(ab, cd)),
                Self(_mm512_shuffle_ps::<0xee>(ab, cd)),
                Self(_mm512_shuffle_ps::<0x44>(ab_high, cd_high)),
                Self(_mm512_shuffle_ps::<0xee>(ab_high, cd_high)),
            ]
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask16(unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask16(unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mask_blend_ps(mask.0, no.0, yes.0) })
    }

    #[inline(always)]
    fn bits(self) -> Self::Bits {
        // SAFETY: see above.
        Bits16(unsafe { _mm512_castps_si512(self.0) })
    }

    #[inline(always)]
    fn truncated(self) -> Self::Bits {
        // SAFETY: see above.
        Bits16(unsafe { _mm512_cvttps_epi32(self.0) })
    }

    /// By Markstein's theorem: the remainder of a quotient that is less than a unit in the last place away, times the
    /// correctly rounded inverse, corrects it to the correctly rounded quotient. The first estimate can be farther away, so
    /// that it is corrected twice.
    #[inline(always)]
    fn quotient(dividend: Self, divisor: Self, inverse: Self) -> Self {
        // SAFETY: see above; where there is AVX-512 there are fused operations.
        unsafe {
            let estimate = _mm512_mul_ps(dividend.0, inverse.0);
            let remainder = _mm512_fnmadd_ps(estimate, divisor.0, dividend.0);
            let faithful = _mm512_fmadd_ps(remainder, inverse.0, estimate);
            let remainder = _mm512_fnmadd_ps(faithful, divisor.0, dividend.0);
            Self(_mm512_fmadd_ps(remainder, inverse.0, faithful))
        }
    }

    #[inline(always)]
    fn halves(self) -> Self::Bits {
        // SAFETY: see above.
        Bits16(unsafe { _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) })
    }
}

impl Bits for Bits16 {
    type Lanes = Avx512;

    #[inline(always)]
    fn all(bits: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_epi32(bits.cast_signed()) })
    }

    #[inline(always)]
    fn up(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sll_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn down(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sra_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn lanes(self) -> Self::Lanes {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_castsi512_ps(self.0) })
    }

    #[inline(always)]
    fn floats(self) -> Self::Lanes {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
    }

    #[inline(always)]
    fn store(self, to: &mut [u32]) {
        let to = &mut to[..16];
        // SAFETY: see above; there is room for sixteen numbers.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), self.0) }
    }
}

impl Mask for Mask16 {
    #[inline(always)]
    fn any(self) -> bool {
        self.0 != 0
    }
}
