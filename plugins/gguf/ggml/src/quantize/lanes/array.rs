//! Lanes as arrays, which compilers turn into the vectors that every CPU of an architecture has.

use std::{
    array::from_fn,
    ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub},
};

use super::{Bits, Lanes, Mask};
use crate::float::to_f16;

/// An array of numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Array<const N: usize>([f32; N]);

/// An array of bits.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ArrayOfBits<const N: usize>([u32; N]);

/// An array of masks: all bits of a lane, or none.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ArrayOfMasks<const N: usize>([u32; N]);

macro_rules! lane_by_lane {
    ($($type:ident: $($trait:ident $method:ident $function:expr),*;)*) => {
        $($(
            impl<const N: usize> $trait for $type<N> {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    Self(from_fn(|lane| $function(self.0[lane], other.0[lane])))
                }
            }
        )*)*
    };
}

lane_by_lane! {
    Array: Add add f32::add, Sub sub f32::sub, Mul mul f32::mul, Div div f32::div;
    ArrayOfBits: Add add u32::wrapping_add, Sub sub u32::wrapping_sub, BitAnd bitand u32::bitand, BitOr bitor u32::bitor;
    ArrayOfMasks: BitAnd bitand u32::bitand, BitOr bitor u32::bitor;
}

impl<const N: usize> Not for ArrayOfMasks<N> {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(from_fn(|lane| !self.0[lane]))
    }
}

impl<const N: usize> Lanes for Array<N> {
    const COUNT: usize = N;

    type Bits = ArrayOfBits<N>;
    type Mask = ArrayOfMasks<N>;

    #[inline(always)]
    fn all(number: f32) -> Self {
        Self([number; N])
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = &from[..N];
        Self(from_fn(|lane| from[lane]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..N].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn columns(from: &[f32], pitch: usize) -> [Self; 4] {
        let from = &from[..(N - 1) * pitch + 4];
        from_fn(|column| Self(from_fn(|lane| from[lane * pitch + column])))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(from_fn(|lane| self.0[lane].abs()))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(from_fn(|lane| self.0[lane].sqrt()))
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Self(from_fn(|lane| if self.0[lane] < other.0[lane] { self.0[lane] } else { other.0[lane] }))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Self(from_fn(|lane| if self.0[lane] > other.0[lane] { self.0[lane] } else { other.0[lane] }))
    }

    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        ArrayOfMasks(from_fn(|lane| mask(self.0[lane] < other.0[lane])))
    }

    #[inline(always)]
    #[expect(clippy::float_cmp, reason = "what is asked for")]
    fn equals(self, other: Self) -> Self::Mask {
        ArrayOfMasks(from_fn(|lane| mask(self.0[lane] == other.0[lane])))
    }

    #[inline(always)]
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(from_fn(|lane| {
            f32::from_bits(yes.0[lane].to_bits() & mask.0[lane] | no.0[lane].to_bits() & !mask.0[lane])
        }))
    }

    #[inline(always)]
    fn bits(self) -> Self::Bits {
        ArrayOfBits(from_fn(|lane| self.0[lane].to_bits()))
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "saturating would cost more than the conversion")]
    fn truncated(self) -> Self::Bits {
        ArrayOfBits(from_fn(|lane| {
            let fits = self.0[lane].abs() < 2_147_483_648.0;
            let x = if fits { self.0[lane] } else { 0.0 };
            // SAFETY: it is a number that an `i32` holds.
            let integer: i32 = unsafe { x.to_int_unchecked() };
            if fits { integer.cast_unsigned() } else { 0x8000_0000 }
        }))
    }

    #[inline(always)]
    fn halves(self) -> Self::Bits {
        ArrayOfBits(from_fn(|lane| to_f16(self.0[lane]).into()))
    }
}

#[inline(always)]
fn mask(yes: bool) -> u32 {
    if yes { u32::MAX } else { 0 }
}

impl<const N: usize> Bits for ArrayOfBits<N> {
    type Lanes = Array<N>;

    #[inline(always)]
    fn all(bits: u32) -> Self {
        Self([bits; N])
    }

    #[inline(always)]
    fn up(self, by: u32) -> Self {
        Self(from_fn(|lane| self.0[lane] << by))
    }

    #[inline(always)]
    fn down(self, by: u32) -> Self {
        Self(from_fn(|lane| (self.0[lane].cast_signed() >> by).cast_unsigned()))
    }

    #[inline(always)]
    fn lanes(self) -> Self::Lanes {
        Array(from_fn(|lane| f32::from_bits(self.0[lane])))
    }

    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "what is asked for")]
    fn floats(self) -> Self::Lanes {
        Array(from_fn(|lane| self.0[lane].cast_signed() as f32))
    }

    #[inline(always)]
    fn store(self, to: &mut [u32]) {
        to[..N].copy_from_slice(&self.0);
    }
}

impl<const N: usize> Mask for ArrayOfMasks<N> {
    #[inline(always)]
    fn any(self) -> bool {
        self.0.iter().fold(0, |all, mask| all | mask) != 0
    }
}
