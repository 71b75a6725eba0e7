//! Functions of real numbers without a branch, so that a loop over them is compiled to vector instructions.

use super::simd::Simd;

/// `eˣ`: 0 below the smallest subnormal number, infinity above the largest number, and NaN of NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    // Comparisons this way round keep NaN.
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (value, exponent) = parts::<S>(x);
    // In two steps, since a power alone may be out of range.
    let half = exponent >> 1;
    value * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// `eˣ` for `x ≤ 0`, where less can go wrong: 0 below the smallest normal number, and NaN of NaN.
#[inline(always)]
pub(crate) fn exp_below<S: Simd>(x: f32) -> f32 {
    const LEAST: f32 = -87.3;
    let clamped = if x < LEAST { LEAST } else { x };
    let (value, exponent) = parts::<S>(clamped);
    let power = value * power_of_two(exponent);
    if x < LEAST { 0.0 } else { power }
}

/// `v` and `n` with `eˣ = v · 2ⁿ`.
#[inline(always)]
fn parts<S: Simd>(x: f32) -> (f32, i32) {
    // What is added to round to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = S::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    // ln 2 in two parts, the first with few bits.
    let rest = S::mul_add(power, -0.693_359_4, x);
    let rest = S::mul_add(power, 2.121_944_4e-4, rest);
    let mut sum = 1.987_569_1e-4;
    sum = S::mul_add(sum, rest, 1.398_199_9e-3);
    sum = S::mul_add(sum, rest, 8.333_452e-3);
    sum = S::mul_add(sum, rest, 4.166_579_6e-2);
    sum = S::mul_add(sum, rest, 1.666_666_5e-1);
    sum = S::mul_add(sum, rest, 5.000_000_3e-1);
    let value = S::mul_add(sum * rest, rest, rest) + 1.0;
    (value, shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed())
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(exponent.wrapping_add(127).cast_unsigned() << 23)
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: f32) -> f32 {
    let square = x * x;
    let mut sum = -5.704_989e-3;
    sum = S::mul_add(sum, square, 2.063_909e-2);
    sum = S::mul_add(sum, square, -5.373_971_6e-2);
    sum = S::mul_add(sum, square, 1.333_144_3e-1);
    sum = S::mul_add(sum, square, -3.333_328e-1);
    let near = S::mul_add(sum * square, x, x);
    let far = 1.0 - 2.0 / (exp::<S>(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(x: f32) -> f32 {
    // Of the negative magnitude, which overflows nothing.
    let power = exp::<S>(-x.abs());
    let above = if x < 0.0 { power } else { 1.0 };
    above / (1.0 + power)
}

/// The distribution function of the standard normal distribution.
///
/// It is half of `erfc(|x| / √2)`, or 1 less that: so that there are no digits lost where it is small. `erfc(z)`
/// is `e^(−z²) · t · P(t)` with `t = 1 / (1 + z / 2)`; `P` was fitted to `erfc` on `0 ≤ z ≤ 10`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(x: f32) -> f32 {
    const P: [f32; 10] = [
        0.012_283_877,
        -0.123_254_694,
        0.428_928_4,
        -0.670_022_5,
        0.421_274_27,
        -0.098_317_63,
        0.225_541_86,
        0.238_644_84,
        0.282_857_03,
        0.282_064_5,
    ];
    let magnitude = x.abs();
    let z = magnitude * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / S::mul_add(z, 0.5, 1.0);
    let mut sum = P[0];
    for coefficient in &P[1..] {
        sum = S::mul_add(sum, t, *coefficient);
    }
    // −z² = −x² / 2 in two parts, the first of which is exact.
    let short = f32::from_bits(magnitude.to_bits() & 0xffff_f000);
    let power = exp::<S>(-0.5 * short * short) * exp::<S>(-0.5 * (magnitude - short) * (magnitude + short));
    let tail = 0.5 * power * t * sum;
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "numbers to try")]
mod tests {
    use super::*;
    use crate::{Cpu, InstructionSet, cpu::simd::Job};

    struct Exponentials;

    impl Job for Exponentials {
        type Output = Vec<(f32, f32, f32)>;

        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let numbers = (-1_100_000..900_000).map(|i| i as f32 * 1e-4);
            simd.vectorize(|| numbers.map(|x| (x, exp::<S>(x), exp_below::<S>(x.min(0.0)))).collect())
        }
    }

    /// The distance in units in the last place of a number.
    fn units(found: f32, expected: f64) -> f64 {
        let unit = f64::from(f32::EPSILON) * 2.0_f64.powi(expected.log2().floor().max(-126.0) as i32);
        (f64::from(found) - expected).abs() / unit
    }

    #[test]
    fn exponentials_are_exact_to_two_units_in_the_last_place() {
        for cpu in InstructionSet::available().into_iter().filter_map(Cpu::with) {
            for (x, found, below) in cpu.simd.run(Exponentials) {
                let expected = f64::from(x).exp();
                if expected > f64::from(f32::MAX) {
                    assert!(found.is_infinite() || x < 88.73, "{cpu:?} {x}: {found}");
                } else {
                    assert!(units(found, expected) <= 2.0, "{cpu:?} {x}: {found} {expected}");
                }
                if x <= 0.0 {
                    let fits = units(below, expected) <= 2.0 || x < -87.2 && below == 0.0;
                    assert!(fits, "{cpu:?} {x}: {below} {expected}");
                }
            }
        }
    }
}
