//! From float to level: the roundings of the reference, on every input.
//!
//! Levels decide bytes, so each function also gives what the compiled reference gives for values
//! that its author did not expect: huge ones, infinities and NaN.

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

/// The level nearest to a number: [`nearest_int`] and a clamp, kept as a float.
///
/// All of it is exact. Floats, because every level goes into products next, and because plain
/// x86-64 has vector instructions for the minimum of floats but not for that of integers.
#[inline]
pub(super) fn nearest_level(x: f32, lowest: f32, highest: f32) -> f32 {
    let bits = (x + 12_582_912.0).to_bits();
    let level = exact((bits & 0x007f_ffff).cast_signed()) - 4_194_304.0;
    let level = if level < highest { level } else { highest };
    if level > lowest { level } else { lowest }
}

/// Rounds a number from 0 to 2²² towards zero and keeps the lowest byte, as the reference's
/// conversions to a byte do.
///
/// An infinity, or a NaN made by arithmetic, gives zero. C leaves that undefined; x86-64 answers
/// with `i32::MIN`, whose lowest byte is zero, and Rust's `as` would saturate.
#[inline]
pub(super) fn truncated_byte(x: f32) -> u8 {
    // From here to 2²⁴ floats are the integers, so that adding it rounds, and the integer lies in
    // the low bits. Unlike `as` this becomes vector instructions.
    const INTEGERS: f32 = 8_388_608.0;
    let shifted = x + INTEGERS;
    let rounded_up = shifted - INTEGERS > x;
    low_byte(shifted.to_bits().cast_signed() - i32::from(rounded_up))
}

/// Rounds to the nearest integer, ties away from zero as C's `roundf`, and keeps the lowest byte;
/// for |x| < 2²², and otherwise as [`truncated_byte`].
#[inline]
pub(super) fn rounded_byte(x: f32) -> u8 {
    // The largest float below a half: with a full half, its neighbour 0.49999997 would become 1.
    const BELOW_HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    let magnitude = truncated_byte(x.abs() + BELOW_HALF);
    if x < 0.0 { magnitude.wrapping_neg() } else { magnitude }
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

/// Applies a function to each of some weights. A plain loop, which compilers turn into vector
/// instructions; `array::map` they do not.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the loop can only be good where the function is known")]
pub(super) fn each<T: Copy, U: Copy + Default, const N: usize>(x: &[T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [U::default(); N];
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    out
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_level_is_the_nearest_integer_clamped() {
        let numbers =
            [0.5, 1.5, -0.5, 7.49, 31.6, -40.0, 1e6, 1e9, -1e30, f32::MAX, f32::INFINITY, 0.0 * f32::INFINITY];
        for x in numbers {
            for (lowest, highest) in [(0_i16, 15_i16), (-32, 31), (-4, 3)] {
                let expected = nearest_int(x).clamp(i32::from(lowest), i32::from(highest));
                let level = nearest_level(x, f32::from(lowest), f32::from(highest));
                assert_eq!(level.to_bits(), exact(expected).to_bits(), "{x:e}");
            }
        }
    }

    #[test]
    fn conversion_to_a_byte_truncates_or_rounds_and_wraps() {
        let near_halves = (-1200_i16..1200).flat_map(|half| {
            let half = f32::from(half) / 2.0;
            [half.next_down(), half, half.next_up()]
        });
        for x in near_halves.chain([4_194_302.5, -4_194_302.5, 1e-40, -1e-40, -0.0]) {
            #[expect(clippy::cast_possible_truncation, reason = "it fits into an i32")]
            let (truncated, rounded) = (x as i32, x.round() as i32);
            if x >= 0.0 {
                assert_eq!(truncated_byte(x), low_byte(truncated), "{x:e}");
            }
            assert_eq!(rounded_byte(x), low_byte(rounded), "{x:e}");
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert_eq!((truncated_byte(x), rounded_byte(x)), (0, 0));
        }
    }
}
