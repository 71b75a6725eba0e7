//! IQ4_NL and IQ4_XS: 4 bits that stand for sixteen values of uneven steps, a scale for 32 weights.
//!
//! The arithmetic is that of ggml's `quantize_row_iq4_nl_impl` with seven tries on either side, which is what
//! `ggml_quantize_chunk` calls for both types, importances or not. (`quantize_row_iq4_nl_ref`, for activations, tries
//! nothing.)

use super::blocks::{Table, column_times_magnitude, squares, sum, sum_of_squares, weights};
use super::dispatch::{Kernel, Weighing};
use super::lanes::{Bits, Lanes};
use super::legacy::{four_bits, inverse, put};
use super::round::{exact, nearest_level};
use super::search::{extreme, first_largest};
use crate::layout::{BLOCK, SUPER_BLOCK, UNEVEN, iq4_nl, iq4_xs, put_f16, put_iq4_scales};

/// The first value; the largest weight is mapped to it, since no other is as large.
const FIRST: f32 = UNEVEN[0] as f32;

/// From where on the value after each is nearer: a number in the middle goes up. Whole numbers and halves, and the numbers
/// around them have exact differences to the values, so that comparing with these is comparing the differences.
const MIDDLES: [f32; 16] = {
    let mut middles = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        middles[i] = f32::midpoint(UNEVEN[i] as f32, UNEVEN[i + 1] as f32);
        i += 1;
    }
    middles
};

/// 4 bits and one scale for 32 weights.
pub(super) struct IQ4NL;

/// 4 bits and a 6-bit scale for 32 weights, in super-blocks of 256.
pub(super) struct IQ4XS;

impl Kernel for IQ4NL {
    const ELEMENTS: usize = BLOCK;
    const BYTES: usize = iq4_nl::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let x: [F; BLOCK] = weights(x, BLOCK, 0);
        let mut importance = squares(&x);
        if let Some(weighing) = weighing {
            let spread = sum(&importance) * F::all(2.0 / 32.0);
            importance = column_times_magnitude(&x, &weights(weighing.columns, BLOCK, 0), spread);
        }
        let scale = scale(&x, &importance);
        put::<F, 1>(&[scale.halves()], out, Self::BYTES, iq4_nl::D, 2);
        put::<F, 4>(&four_bits::<F>(&codes(&x, inverse(scale))), out, Self::BYTES, iq4_nl::QS, 4);
    }
}

impl Kernel for IQ4XS {
    const ELEMENTS: usize = SUPER_BLOCK;
    const BYTES: usize = iq4_xs::BYTES;

    #[inline(always)]
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]) {
        let mut scales = [F::all(0.0); SUPER_BLOCK / BLOCK];
        let spread = match weighing {
            Some(_) => sum_of_squares::<F>(x) * F::all(2.0 / 256.0),
            None => F::all(0.0),
        };
        for (j, found) in scales.iter_mut().enumerate() {
            let x = weights(x, SUPER_BLOCK, j * BLOCK);
            let importance = match weighing {
                Some(weighing) => {
                    column_times_magnitude(&x, &weights(weighing.columns, SUPER_BLOCK, j * BLOCK), spread)
                }
                None => squares(&x),
            };
            *found = scale(&x, &importance);
        }
        let d = first_largest(&scales) / F::all(-32.0);
        let inverse_d = inverse(d);
        let mut table = Table::<{ SUPER_BLOCK / BLOCK }>::new();
        for (j, &scale) in scales.iter().enumerate() {
            let level = nearest_level(inverse_d * scale, -32.0, 31.0);
            table.put(j, level);
            // Of the scale before it is rounded to f16, as in the reference.
            let x = weights(x, SUPER_BLOCK, j * BLOCK);
            let words = four_bits::<F>(&codes(&x, inverse(d * level)));
            put::<F, 4>(&words, out, Self::BYTES, iq4_xs::QS + j * BLOCK / 2, 4);
        }
        let mut of_lanes = Table::<1>::new();
        of_lanes.put(0, d);
        for (lane, out) in out.as_chunks_mut::<{ iq4_xs::BYTES }>().0.iter_mut().enumerate() {
            put_f16(out, iq4_xs::D, of_lanes.lane(lane)[0]);
            let mut levels = [0; SUPER_BLOCK / BLOCK];
            for (level, found) in levels.iter_mut().zip(table.lane(lane)) {
                *level = signed_byte(*found);
            }
            put_iq4_scales(out, levels);
        }
    }
}

/// A whole number of a signed byte.
#[expect(clippy::cast_possible_truncation, reason = "it is one")]
fn signed_byte(number: f32) -> i8 {
    number as i8
}

/// The scale that fits 32 weights best, of either sign: of each try the least-squares scale for its values, and of these
/// the first by which most is gained.
///
/// The scales around one differ by so little that the numbers of a weight, from first to last, have a middle between them
/// at most: of these tries a weight has the lowest number's value, or the next.
#[inline(always)]
fn scale<F: Lanes>(x: &[F; BLOCK], importance: &[F; BLOCK]) -> F {
    let none = F::all(0.0);
    let (extreme, zero) = extreme(x);
    // What is computed of zeros is thrown away.
    let extreme = F::choose(zero, F::all(1.0), extreme);

    let apart = F::all(1.0) / (extreme / F::all(-FIRST));
    let mut values = *x;
    for value in &mut values {
        *value = nearest(apart * *value)[0];
    }
    let (sum_vx, sum_v2) = sums(x, importance, &values);
    let mut scale = F::choose(sum_v2.above(none), sum_vx / sum_v2, none);
    let mut best_gain = scale * sum_vx;

    let (first, last) = (tried(extreme, -7), tried(extreme, 7));
    let [mut lower, mut upper, mut middles] = [*x; 3];
    for (((&x, lower), upper), middle) in x.iter().zip(&mut lower).zip(&mut upper).zip(&mut middles) {
        [*lower, *upper, *middle] = nearest((first * x).lesser(last * x));
    }
    for step in -7..=7 {
        let inverse = tried(extreme, step);
        let bounds = lower.iter().zip(&upper).zip(&middles);
        for ((value, &x), ((&lower, &upper), &middle)) in values.iter_mut().zip(x).zip(bounds) {
            *value = F::choose((inverse * x).below(middle), lower, upper);
        }
        let (sum_vx, sum_v2) = sums(x, importance, &values);
        let better = sum_v2.above(none) & (sum_vx * sum_vx).above(best_gain * sum_v2);
        let this_scale = sum_vx / sum_v2;
        scale = F::choose(better, this_scale, scale);
        best_gain = F::choose(better, this_scale * sum_vx, best_gain);
    }
    F::choose(zero, none, scale)
}

/// The inverse of the scale that is tried in a step.
#[inline(always)]
fn tried<F: Lanes>(extreme: F, step: i32) -> F {
    F::all(exact(step) + FIRST) / extreme
}

/// The sums of value · weight and of value², both times the importance.
#[inline(always)]
fn sums<F: Lanes>(x: &[F; BLOCK], importance: &[F; BLOCK], values: &[F; BLOCK]) -> (F, F) {
    let (mut sum_vx, mut sum_v2) = (F::all(0.0), F::all(0.0));
    for ((&x, &w), &value) in x.iter().zip(importance).zip(values) {
        let weighed = w * value;
        sum_vx = sum_vx + weighed * x;
        sum_v2 = sum_v2 + weighed * value;
    }
    (sum_vx, sum_v2)
}

/// The value that is nearest to a number, the one above it, and from where on that is nearer. After the last there is none.
#[inline(always)]
fn nearest<F: Lanes>(number: F) -> [F; 3] {
    let [mut lower, mut upper, mut middle] =
        [F::all(f32::from(UNEVEN[0])), F::all(f32::from(UNEVEN[1])), F::all(MIDDLES[0])];
    for i in 1..16 {
        let below = number.below(F::all(MIDDLES[i - 1]));
        lower = F::choose(below, lower, F::all(f32::from(UNEVEN[i])));
        upper = F::choose(below, upper, F::all(f32::from(UNEVEN[15.min(i + 1)])));
        middle = F::choose(below, middle, F::all(MIDDLES[i]));
    }
    [lower, upper, middle]
}

/// The codes of the nearest values for a scale, of which this is the inverse.
#[inline(always)]
fn codes<F: Lanes>(x: &[F; BLOCK], inverse: F) -> [F::Bits; BLOCK] {
    let mut codes = [F::Bits::all(0); BLOCK];
    for (code, &x) in codes.iter_mut().zip(x) {
        let number = inverse * x;
        let mut last = F::all(0.0);
        for (above, &middle) in (1..).zip(&MIDDLES[..15]) {
            last = F::choose(number.below(F::all(middle)), last, F::all(exact(above)));
        }
        *code = last.truncated();
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Array;
    use super::*;

    fn code_of(number: f32) -> u32 {
        let mut code = [0];
        codes(&[Array::<1>::all(number); BLOCK], Array::all(1.0))[0].store(&mut code);
        code[0]
    }

    /// What the comparison of differences gives, as the reference makes it; a tie goes up.
    fn nearest(x: f32) -> u8 {
        let difference = |code: usize| (x - f32::from(UNEVEN[code])).abs();
        (1..16).fold(
            0,
            |best: u8, code: u8| {
                if difference(code.into()) <= difference(best.into()) { code } else { best }
            },
        )
    }

    #[test]
    fn no_two_middles_lie_between_the_numbers_of_a_weight() {
        let (below, above): (Vec<f32>, Vec<f32>) = MIDDLES[..15].iter().partition(|middle| **middle < 0.0);
        for (nearer, farther) in
            below.windows(2).map(|pair| (pair[1], pair[0])).chain(above.windows(2).map(|pair| (pair[0], pair[1])))
        {
            assert!(farther / nearer > 1.01 * (FIRST - 7.0) / (FIRST + 7.0), "{nearer} {farther}");
        }
    }

    #[test]
    fn a_code_is_that_of_the_nearest_value() {
        let mut numbers: Vec<f32> = (-1200_i16..1200).map(|tenth| f32::from(tenth) / 8.0).collect();
        for number in MIDDLES[..15].iter().copied().chain(UNEVEN.map(f32::from)) {
            numbers.extend([number.next_down(), number, number.next_up()]);
        }
        numbers.extend([f32::MIN_POSITIVE, -f32::MIN_POSITIVE, -0.0, f32::MAX, f32::MIN]);
        for number in numbers {
            let expected = if number.abs() > 1e30 { if number > 0.0 { 15 } else { 0 } } else { nearest(number) };
            assert_eq!(code_of(number), u32::from(expected), "{number:e}");
        }
        // The reference's search ends at the last where no comparison holds.
        assert_eq!(code_of(f32::NAN), 15);
    }
}
