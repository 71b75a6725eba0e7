//! Twice as many lanes: two halves, so that the CPU can work on one while the other waits for a result.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::{Bits, Lanes, Mask};

/// Two halves.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Twice<T>(pub(in super::super) T, pub(in super::super) T);

macro_rules! by_halves {
    ($($trait:ident $method:ident),*) => {
        $(
            impl<T: $trait<Output = T>> $trait for Twice<T> {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    Self(self.0.$method(other.0), self.1.$method(other.1))
                }
            }
        )*
    };
}

by_halves!(Add add, Sub sub, Mul mul, Div div, BitAnd bitand, BitOr bitor);

impl<T: Not<Output = T>> Not for Twice<T> {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0, !self.1)
    }
}

impl<F: Lanes> Lanes for Twice<F> {
    const COUNT: usize = 2 * F::COUNT;

    type Bits = Twice<F::Bits>;
    type Mask = Twice<F::Mask>;

    #[inline(always)]
    fn all(number: f32) -> Self {
        Self(F::all(number), F::all(number))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(F::load(from), F::load(&from[F::COUNT..]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        self.0.store(to);
        self.1.store(&mut to[F::COUNT..]);
    }

    #[inline(always)]
    fn columns(from: &[f32], pitch: usize) -> [Self; 4] {
        let (low, high) = (F::columns(from, pitch), F::columns(&from[F::COUNT * pitch..], pitch));
        [Self(low[0], high[0]), Self(low[1], high[1]), Self(low[2], high[2]), Self(low[3], high[3])]
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Self(self.0.lesser(other.0), self.1.lesser(other.1))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Self(self.0.greater(other.0), self.1.greater(other.1))
    }

    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        Twice(self.0.below(other.0), self.1.below(other.1))
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        Twice(self.0.equals(other.0), self.1.equals(other.1))
    }

    #[inline(always)]
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(F::choose(mask.0, yes.0, no.0), F::choose(mask.1, yes.1, no.1))
    }

    #[inline(always)]
    fn bits(self) -> Self::Bits {
        Twice(self.0.bits(), self.1.bits())
    }

    #[inline(always)]
    fn truncated(self) -> Self::Bits {
        Twice(self.0.truncated(), self.1.truncated())
    }

    #[inline(always)]
    fn quotient(dividend: Self, divisor: Self, inverse: Self) -> Self {
        Self(F::quotient(dividend.0, divisor.0, inverse.0), F::quotient(dividend.1, divisor.1, inverse.1))
    }

    #[inline(always)]
    fn halves(self) -> Self::Bits {
        Twice(self.0.halves(), self.1.halves())
    }
}

impl<B: Bits> Bits for Twice<B>
where
    B::Lanes: Lanes,
{
    type Lanes = Twice<B::Lanes>;

    #[inline(always)]
    fn all(bits: u32) -> Self {
        Self(B::all(bits), B::all(bits))
    }

    #[inline(always)]
    fn up(self, by: u32) -> Self {
        Self(self.0.up(by), self.1.up(by))
    }

    #[inline(always)]
    fn down(self, by: u32) -> Self {
        Self(self.0.down(by), self.1.down(by))
    }

    #[inline(always)]
    fn lanes(self) -> Self::Lanes {
        Twice(self.0.lanes(), self.1.lanes())
    }

    #[inline(always)]
    fn floats(self) -> Self::Lanes {
        Twice(self.0.floats(), self.1.floats())
    }

    #[inline(always)]
    fn store(self, to: &mut [u32]) {
        self.0.store(to);
        self.1.store(&mut to[<B::Lanes as Lanes>::COUNT..]);
    }
}

impl<M: Mask> Mask for Twice<M> {
    #[inline(always)]
    fn any(self) -> bool {
        (self.0 | self.1).any()
    }
}
