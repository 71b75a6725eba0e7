//! Four lanes: SSE2, which every CPU of x86-64 has.
#![expect(unsafe_code, reason = "intrinsics")]
#![allow(clippy::wildcard_imports, reason = "there are many, and their names say where they are from")]

use std::{arch::x86_64::*, ops::Not};

use super::{Bits, Lanes, Mask, operators};
use crate::float::to_f16;

/// Four numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Sse2(__m128);

/// The bits of four numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bits4(__m128i);

/// All bits of a lane, or none.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Mask4(__m128);

operators! {
    Sse2: Add add _mm_add_ps, Sub sub _mm_sub_ps, Mul mul _mm_mul_ps, Div div _mm_div_ps;
    Bits4: Add add _mm_add_epi32, Sub sub _mm_sub_epi32, BitAnd bitand _mm_and_si128,
        BitOr bitor _mm_or_si128;
    Mask4: BitAnd bitand _mm_and_ps, BitOr bitor _mm_or_ps;
}

impl Not for Mask4 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: every x86-64 has SSE2; so in all that follows.
        Self(unsafe { _mm_xor_ps(self.0, _mm_castsi128_ps(_mm_set1_epi32(-1))) })
    }
}

impl Lanes for Sse2 {
    const COUNT: usize = 4;

    type Bits = Bits4;
    type Mask = Mask4;

    #[inline(always)]
    fn all(number: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_set1_ps(number) })
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..4];
        // SAFETY: see above; there are four numbers.
        Self(unsafe { _mm_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..4];
        // SAFETY: see above; there is room for four numbers.
        unsafe { _mm_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn columns(from: &[f32], pitch: usize) -> [Self; 4] {
        let from = &from[..3 * pitch + 4];
        // SAFETY: see above; four numbers of each of four lanes are there.
        unsafe {
            let first = from.as_ptr();
            let (a, b) = (_mm_loadu_ps(first), _mm_loadu_ps(first.add(pitch)));
            let (c, d) = (_mm_loadu_ps(first.add(2 * pitch)), _mm_loadu_ps(first.add(3 * pitch)));
            let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            [
                Self(_mm_shuffle_ps::<0x44>(ab, cd)),
                Self(_mm_shuffle_ps::<0xee>(ab, cd)),
                Self(_mm_shuffle_ps::<0x44>(ab_high, cd_high)),
                Self(_mm_shuffle_ps::<0xee>(ab_high, cd_high)),
            ]
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_and_ps(self.0, _mm_castsi128_ps(_mm_set1_epi32(i32::MAX))) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask4(unsafe { _mm_cmplt_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        Mask4(unsafe { _mm_cmpeq_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_or_ps(_mm_and_ps(mask.0, yes.0), _mm_andnot_ps(mask.0, no.0)) })
    }

    #[inline(always)]
    fn bits(self) -> Self::Bits {
        // SAFETY: see above.
        Bits4(unsafe { _mm_castps_si128(self.0) })
    }

    #[inline(always)]
    fn truncated(self) -> Self::Bits {
        // SAFETY: see above.
        Bits4(unsafe { _mm_cvttps_epi32(self.0) })
    }

    #[inline(always)]
    fn halves(self) -> Self::Bits {
        let mut numbers = [0.0; 4];
        self.store(&mut numbers);
        let [a, b, c, d] = numbers.map(|number| i32::from(to_f16(number)));
        // SAFETY: see above.
        Bits4(unsafe { _mm_set_epi32(d, c, b, a) })
    }
}

impl Bits for Bits4 {
    type Lanes = Sse2;

    #[inline(always)]
    fn all(bits: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_set1_epi32(bits.cast_signed()) })
    }

    #[inline(always)]
    fn up(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_sll_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn down(self, by: u32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm_sra_epi32(self.0, _mm_cvtsi32_si128(by.cast_signed())) })
    }

    #[inline(always)]
    fn lanes(self) -> Self::Lanes {
        // SAFETY: see above.
        Sse2(unsafe { _mm_castsi128_ps(self.0) })
    }

    #[inline(always)]
    fn floats(self) -> Self::Lanes {
        // SAFETY: see above.
        Sse2(unsafe { _mm_cvtepi32_ps(self.0) })
    }

    #[inline(always)]
    fn store(self, to: &mut [u32]) {
        let to = &mut to[..4];
        // SAFETY: see above; there is room for four numbers.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), self.0) }
    }
}

impl Mask for Mask4 {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: see above.
        unsafe { _mm_movemask_ps(self.0) != 0 }
    }
}
