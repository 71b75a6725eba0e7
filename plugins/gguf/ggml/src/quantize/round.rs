//! From float to level: the roundings of the reference, on every input.
//!
//! Levels decide bytes, so each function also gives what the compiled reference gives for values
//! that its author did not expect: huge ones, infinities and NaN.

use super::lanes::{Bits, Lanes};

/// Rounds to the nearest integer, ties to even, in the way of the K-quants.
///
/// Adding 1.5 · 2²³ leaves the integer in the low bits of the mantissa. That holds for |x| < 2²²;
/// beyond it these are some bits of the mantissa, and the scale searches do come here with such
/// values, whose levels are then clamped. An infinity gives −2²², a NaN made by arithmetic 0.
#[inline]
pub(super) fn nearest_int(x: f32) -> i32 {
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff).cast_signed() - 0x0040_0000
}

/// [`nearest_int`] in lanes, as integers.
#[inline(always)]
pub(super) fn nearest<F: Lanes>(x: F) -> F::Bits {
    ((x + F::all(12_582_912.0)).bits() & F::Bits::all(0x007f_ffff)) - F::Bits::all(0x0040_0000)
}

/// The level nearest to a number: [`nearest`] and a clamp, kept as a float since every level goes into products next.
#[inline(always)]
pub(super) fn nearest_level<F: Lanes>(x: F, lowest: f32, highest: f32) -> F {
    nearest(x).floats().lesser(F::all(highest)).greater(F::all(lowest))
}

/// The level nearest to a number of which the clamp comes first, or that is below 2²² in magnitude, which is the same.
/// A NaN becomes the lowest.
#[inline(always)]
pub(super) fn nearest_level_within<F: Lanes>(x: F, lowest: f32, highest: f32) -> F {
    nearest_small(x.greater(F::all(lowest)).lesser(F::all(highest)))
}

/// The nearest integer of a number that is below 2²² in magnitude, kept as a float.
#[inline(always)]
pub(super) fn nearest_small<F: Lanes>(x: F) -> F {
    let magic = F::all(12_582_912.0);
    x + magic - magic
}

/// The lowest byte of an integer, kept as a float, of another that is kept as a float.
#[inline(always)]
pub(super) fn wrapped<F: Lanes>(x: F) -> F {
    (x.truncated() & F::Bits::all(0xff)).floats()
}

/// The lowest byte, which is what a C assignment to a byte keeps.
#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "meant")]
pub(super) fn low_byte(x: i32) -> u8 {
    x as u8
}

/// An integer of a handful of bits as a float; exact.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "levels and steps are small")]
pub(super) fn exact(x: i32) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Array;
    use super::*;

    #[test]
    fn nearest_int_rounds_ties_to_even_and_wraps_outside_its_range() {
        for (x, expected) in
            [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.4999, 2), (-7.6, -8), (4_194_303.0, 4_194_303)]
        {
            assert_eq!(nearest_int(x), expected);
        }
        // No answer is right here; these are the reference's.
        assert_eq!(nearest_int(f32::INFINITY), -0x0040_0000);
        assert_eq!(nearest_int(f32::NEG_INFINITY), -0x0040_0000);
        assert_eq!(nearest_int(0.0 * f32::INFINITY), 0);
        assert_eq!(nearest_int(4_194_304.0), -0x0040_0000);
        assert_eq!(nearest_int(-12_582_912.0), -0x0040_0000);
    }

    /// The one lane of a number.
    fn alone(x: f32) -> Array<1> {
        Array::all(x)
    }

    fn number(lane: Array<1>) -> f32 {
        let mut number = [0.0];
        lane.store(&mut number);
        number[0]
    }

    #[test]
    fn a_level_is_the_nearest_integer_clamped() {
        let numbers =
            [0.5, 1.5, -0.5, 7.49, 31.6, -40.0, 1e6, 1e9, -1e30, f32::MAX, f32::INFINITY, 0.0 * f32::INFINITY];
        for x in numbers {
            for (lowest, highest) in [(0_i16, 15_i16), (-32, 31), (-4, 3)] {
                let expected = exact(nearest_int(x).clamp(i32::from(lowest), i32::from(highest)));
                let (lowest, highest) = (f32::from(lowest), f32::from(highest));
                let level = number(nearest_level(alone(x), lowest, highest));
                assert_eq!(level.to_bits(), expected.to_bits(), "{x:e}");
                if x.abs() < 4e6 {
                    let level = number(nearest_level_within(alone(x), lowest, highest));
                    assert_eq!(level.to_bits(), expected.to_bits(), "{x:e}");
                }
            }
        }
    }

    #[test]
    fn a_byte_keeps_the_lowest_bits() {
        for (x, expected) in [(0_i16, 0_i16), (255, 255), (256, 0), (-1, 255), (-200, 56)] {
            assert_eq!(number(wrapped(alone(f32::from(x)))).to_bits(), f32::from(expected).to_bits());
        }
    }
}
