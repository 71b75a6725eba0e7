//! Functions of real numbers without a branch, so that a loop over them is compiled to vector instructions.

use super::simd::Simd;

/// `eˣ`: 0 below the smallest subnormal number, infinity above the largest number, and NaN of NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(x: f32) -> f32 {
    // What is added to round to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons this way round keep NaN.
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
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
    // In two steps, since a power alone may be out of range.
    let bits = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = bits >> 1;
    value * power_of_two(half) * power_of_two(bits.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(exponent.wrapping_add(127).cast_unsigned() << 23)
}

/// The hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh<S: Simd>(x: f32) -> f32 {
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
