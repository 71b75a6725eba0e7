//! Numbers side by side: what a kernel needs of an instruction set.
//!
//! A kernel is written once, over lanes that each hold a block of their own and do to it what the reference does, in the
//! reference's order; nothing here may be fused or reordered. Comparisons, minima and maxima say what they do with NaNs,
//! because the reference's bytes depend on it. It knows no block types.
//!
//! The types of an instruction set may only be used by code that was compiled for it, on a machine that has it: what
//! [`dispatch`](super::dispatch) calls.

#[cfg(any(test, not(target_arch = "x86_64")))]
mod array;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod twice;

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

#[cfg(any(test, not(target_arch = "x86_64")))]
pub(super) use array::Array;
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
#[cfg(target_arch = "x86_64")]
pub(super) use sse2::Sse2;
pub(super) use twice::Twice;

/// An `f32` in each lane.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// How many lanes there are, at most [`MOST`].
    const COUNT: usize;

    /// 32 bits in each lane.
    type Bits: Bits<Lanes = Self>;
    /// Yes or no in each lane.
    type Mask: Mask;

    /// The same number in all lanes.
    fn all(number: f32) -> Self;

    /// The first numbers of a slice, which has as many at least.
    fn load(from: &[f32]) -> Self;

    /// Stores the numbers in a slice, which has room for as many at least.
    fn store(self, to: &mut [f32]);

    /// Four neighbouring numbers for each lane: those of the first lane begin the slice, those of the next come `pitch` later.
    fn columns(from: &[f32], pitch: usize) -> [Self; 4];

    /// Without its sign.
    fn abs(self) -> Self;

    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;

    /// This if it is less than the other, else the other.
    fn lesser(self, other: Self) -> Self;

    /// This if it is more than the other, else the other.
    fn greater(self, other: Self) -> Self;

    /// Where this is less than the other; not where one is a NaN.
    fn below(self, other: Self) -> Self::Mask;

    /// Where both are equal; not where one is a NaN.
    fn equals(self, other: Self) -> Self::Mask;

    /// One number where the mask says yes, and another elsewhere.
    fn choose(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Their bits.
    fn bits(self) -> Self::Bits;

    /// As integers, rounded towards zero; what no `i32` holds, NaN among it, becomes its least.
    fn truncated(self) -> Self::Bits;

    /// As binary16, rounded to nearest even, in the low half of the bits; what is too large is infinite.
    fn halves(self) -> Self::Bits;

    /// A quotient, as dividing gives it, where the inverse of the divisor is there already, correctly rounded. All three are
    /// to be far from the ends of what an `f32` holds.
    #[inline(always)]
    fn quotient(dividend: Self, divisor: Self, _inverse: Self) -> Self {
        dividend / divisor
    }

    /// Where this is more than the other; not where one is a NaN.
    #[inline(always)]
    fn above(self, other: Self) -> Self::Mask {
        other.below(self)
    }
}

/// The most lanes that any type has.
pub(super) const MOST: usize = 64;

/// 32 bits in each lane; sums and differences wrap.
pub(super) trait Bits:
    Copy + Add<Output = Self> + Sub<Output = Self> + BitAnd<Output = Self> + BitOr<Output = Self>
{
    /// Floats in lanes of the same number.
    type Lanes;

    /// The same bits in all lanes.
    fn all(bits: u32) -> Self;

    /// Shifted to the left.
    fn up(self, by: u32) -> Self;

    /// Shifted to the right; the sign is kept.
    fn down(self, by: u32) -> Self;

    /// As floats with these bits.
    fn lanes(self) -> Self::Lanes;

    /// As signed integers made floats.
    fn floats(self) -> Self::Lanes;

    /// Stores the bits in a slice, which has room for as many at least.
    fn store(self, to: &mut [u32]);
}

/// Yes or no in each lane.
pub(super) trait Mask: Copy + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self> {
    /// Whether one says yes.
    fn any(self) -> bool;

    /// Whether all say yes.
    #[inline(always)]
    fn every(self) -> bool {
        !(!self).any()
    }
}

/// Implements operators by functions of two operands.
#[cfg(target_arch = "x86_64")]
macro_rules! operators {
    ($($type:ty: $($trait:ident $method:ident $function:expr),*;)*) => {
        $($(
            impl std::ops::$trait for $type {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    // SAFETY: these types are used where the machine has the instructions, as the module says.
                    Self(unsafe { $function(self.0, other.0) })
                }
            }
        )*)*
    };
}
#[cfg(target_arch = "x86_64")]
use operators;

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::quantize::search::lowest;
    #[cfg(target_arch = "x86_64")]
    use qhost_plugin_api::sdk::InstructionSet;

    const NUMBERS: [f32; 16] = [
        0.0,
        -0.0,
        1.5,
        -2.5,
        1e-40,
        -1e30,
        3.0e9,
        -7.75,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        255.9,
        -128.5,
        8_388_609.0,
        0.499_999_97,
    ];

    /// What each lane gives, beside what the scalar operation gives.
    #[inline(always)]
    fn operations<F: Lanes>() -> Vec<(&'static str, Vec<u32>, Vec<u32>)> {
        let x: Vec<f32> = NUMBERS.iter().copied().cycle().take(F::COUNT).collect();
        let mut cases = Vec::new();
        for turn in 0..16 {
            let y: Vec<f32> = NUMBERS.iter().copied().cycle().skip(turn).take(F::COUNT).collect();
            let (a, b) = (F::load(&x), F::load(&y));
            let mut case = |name, lanes: F, scalar: &dyn Fn(f32, f32) -> f32| {
                let mut got = vec![0.0; F::COUNT];
                lanes.store(&mut got);
                let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| scalar(*x, *y)).collect();
                // Any NaN is as good as another.
                let bits =
                    |numbers: Vec<f32>| numbers.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }).collect();
                cases.push((name, bits(got), bits(expected)));
            };
            case("sum", a + b, &|x, y| x + y);
            case("difference", a - b, &|x, y| x - y);
            case("product", a * b, &|x, y| x * y);
            case("quotient", a / b, &|x, y| x / y);
            case("abs", a.abs(), &|x, _| x.abs());
            case("sqrt", a.sqrt(), &|x, _| x.sqrt());
            case("lesser", a.lesser(b), &|x, y| if x < y { x } else { y });
            case("greater", a.greater(b), &|x, y| if x > y { x } else { y });
            case("below", F::choose(a.below(b), a, b), &|x, y| if x < y { x } else { y });
            case("above", F::choose(!a.above(b), a, b), &|x, y| if x > y { y } else { x });
            #[expect(clippy::float_cmp, reason = "what is to be tested")]
            case("equals", F::choose(a.equals(b) | a.below(F::all(1.0)) & b.below(F::all(1.0)), a, b), &|x, y| {
                if x == y || (x < 1.0 && y < 1.0) { x } else { y }
            });
            let mut case = |name, lanes: F::Bits, scalar: &dyn Fn(u32, u32) -> u32| {
                let mut got = vec![0; F::COUNT];
                lanes.store(&mut got);
                cases.push((name, got, x.iter().zip(&y).map(|(x, y)| scalar(x.to_bits(), y.to_bits())).collect()));
            };
            let (a, b) = (a.bits(), b.bits());
            case("wrapping sum", a + b, &u32::wrapping_add);
            case("wrapping difference", a - b, &u32::wrapping_sub);
            case("bits and back", a.lanes().bits(), &|x, _| x);
            case("and", a & b, &|x, y| x & y);
            case("or", a | b, &|x, y| x | y);
            case("up", a.up(8) + F::Bits::all(7), &|x, _| (x << 8).wrapping_add(7));
            case("down", a.down(5), &|x, _| (x.cast_signed() >> 5).cast_unsigned());
            #[expect(clippy::cast_precision_loss, reason = "what is to be tested")]
            case("floats", a.floats().bits(), &|x, _| (x.cast_signed() as f32).to_bits());
            case("halves", F::load(&y).halves(), &|_, y| {
                let y = f32::from_bits(y);
                u32::from(half::f16::from_f32(if y.is_nan() { f32::NAN } else { y }).to_bits())
            });
            #[expect(clippy::cast_possible_truncation, reason = "what is to be tested")]
            case("truncated", F::load(&x).truncated(), &|x, _| {
                let x = f32::from_bits(x);
                if x.abs() < 2_147_483_648.0 { (x as i32).cast_unsigned() } else { 0x8000_0000 }
            });
        }
        assert!(F::load(&x).below(F::all(1.0)).any() && !F::load(&x).below(F::all(f32::NEG_INFINITY)).any());
        assert!(F::all(1.0).below(F::all(2.0)).every() && !F::load(&x).below(F::all(1.0)).every());
        let table: Vec<f32> = (0_u16..1000).map(f32::from).collect();
        for (number, lanes) in (0_u16..).zip(F::columns(&table, 11)) {
            let mut got = vec![0.0; F::COUNT];
            lanes.store(&mut got);
            let expected = (0_u16..).take(F::COUNT).map(|lane| f32::from(lane * 11 + number).to_bits());
            cases.push(("columns", got.iter().map(|x| x.to_bits()).collect(), expected.collect()));
        }
        cases
    }

    /// The first dividend and divisor whose quotient is not that of dividing, of all fractions of divisors.
    #[inline(always)]
    fn wrong_quotient<F: Lanes>() -> Option<(f32, f32)> {
        let dividends: Vec<f32> =
            [4.0, 8.0, 16.0, 32.0].iter().flat_map(|half| (-9..=9).map(|step| lowest(*half, step))).collect();
        let mut divisors = [1.0; MOST];
        for first in (0..1_u32 << 23).step_by(F::COUNT) {
            for (divisor, fraction) in divisors.iter_mut().zip(first..) {
                *divisor = f32::from_bits(1.0_f32.to_bits() | fraction & 0x7f_ffff);
            }
            let divisor = F::load(&divisors);
            let inverse = F::all(1.0) / divisor;
            let mut equal = divisor.equals(divisor);
            for &dividend in &dividends {
                let dividend = F::all(dividend);
                equal = equal & F::quotient(dividend, divisor, inverse).equals(dividend / divisor);
            }
            if !equal.every() {
                return dividends.iter().find_map(|&dividend| {
                    let mut quotients = [0.0; MOST];
                    F::quotient(F::all(dividend), divisor, inverse).store(&mut quotients);
                    let wrong =
                        |(divisor, quotient): &(&f32, &f32)| quotient.to_bits() != (dividend / *divisor).to_bits();
                    let wrong = divisors[..F::COUNT].iter().zip(&quotients).find(wrong);
                    wrong.map(|(divisor, _)| (dividend, *divisor))
                });
            }
        }
        None
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn wrong_quotient_avx2() -> Option<(f32, f32)> {
        wrong_quotient::<Avx2>()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn wrong_quotient_avx512() -> Option<(f32, f32)> {
        wrong_quotient::<Avx512>()
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn quotients_by_inverses_are_those_of_dividing() {
        if InstructionSet::Avx2.is_available() {
            // SAFETY: the machine has it.
            #[expect(unsafe_code, reason = "calls what is compiled for an instruction set that is there")]
            let wrong = unsafe { wrong_quotient_avx2() };
            assert_eq!(wrong, None);
        }
        if InstructionSet::Avx512.is_available() {
            // SAFETY: the machine has it.
            #[expect(unsafe_code, reason = "calls what is compiled for an instruction set that is there")]
            let wrong = unsafe { wrong_quotient_avx512() };
            assert_eq!(wrong, None);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2() -> Vec<(&'static str, Vec<u32>, Vec<u32>)> {
        operations::<Twice<Avx2>>()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn avx512() -> Vec<(&'static str, Vec<u32>, Vec<u32>)> {
        operations::<Twice<Avx512>>()
    }

    #[test]
    fn lanes_do_what_scalars_do() {
        let mut cases = operations::<Twice<Array<4>>>();
        #[cfg(target_arch = "x86_64")]
        {
            cases.extend(operations::<Twice<Sse2>>());
            if InstructionSet::Avx2.is_available() {
                // SAFETY: the machine has it.
                #[expect(unsafe_code, reason = "calls what is compiled for an instruction set that is there")]
                cases.extend(unsafe { avx2() });
            }
            if InstructionSet::Avx512.is_available() {
                // SAFETY: the machine has it.
                #[expect(unsafe_code, reason = "calls what is compiled for an instruction set that is there")]
                cases.extend(unsafe { avx512() });
            }
        }
        for (name, got, expected) in cases {
            assert_eq!(got, expected, "{name} in {} lanes", got.len());
        }
    }
}
