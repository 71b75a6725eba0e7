//! IQ4_NL and IQ4_XS: 4 bits that stand for sixteen values of uneven steps, a scale for 32 weights.
//!
//! The arithmetic is that of ggml's `quantize_row_iq4_nl_impl` with seven tries on either side, which is what
//! `ggml_quantize_chunk` calls for both types, importances or not. (`quantize_row_iq4_nl_ref`, for activations, tries
//! nothing.) The scales that are tried depend on the largest weight alone, so that each has a lane of its own, in which sums
//! run from the first weight to the last as in the reference.

use super::blocks::{column_times_magnitude, each_block, first_largest, sum_of_squares};
use super::legacy::put_4_bits;
use super::round::{each, exact, low_byte, nearest_int, truncated_byte};
use super::search::extreme;
use crate::layout::{BLOCK, SUPER_BLOCK, UNEVEN, iq4_nl, iq4_xs, put_f16, put_iq4_scales};

/// The scales that are tried for 32 weights: one that maps the largest weight to the other end, and fifteen around the one
/// that maps it to the first value.
const TRIES: usize = 16;

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

/// How far the value after each lies above it.
const STEPS: [f32; 16] = {
    let mut steps = [0.0; 16];
    let mut i = 0;
    while i < 15 {
        steps[i] = UNEVEN[i + 1] as f32 - UNEVEN[i] as f32;
        i += 1;
    }
    steps
};

/// 4 bits and one scale for 32 weights.
pub fn iq4_nl(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(x, &each(x, |x| x * x), out);
    }
}

/// As [`iq4_nl()`], with less error where `columns`, the importance of each column of a row, is large.
pub fn iq4_nl_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, |x, columns, out| {
        let spread = sum_of_squares(x) * (2.0 / 32.0);
        block(x, &column_times_magnitude(x, columns, spread), out);
    });
}

/// 4 bits and a 6-bit scale for 32 weights, in super-blocks of 256.
pub fn iq4_xs(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut().0) {
        let x = x.as_chunks().0;
        super_block(x, |j| each(&x[j], |x| x * x), out);
    }
}

/// As [`iq4_xs()`], with less error where `columns`, the importance of each column of a row, is large.
pub fn iq4_xs_weighted(x: &[f32], columns: &[f32], out: &mut [u8]) {
    each_block(x, columns, out, |x: &[f32; SUPER_BLOCK], columns: &[f32; SUPER_BLOCK], out| {
        let spread = sum_of_squares(x) * (2.0 / 256.0);
        let (x, columns) = (x.as_chunks().0, columns.as_chunks().0);
        super_block(x, |j| column_times_magnitude(&x[j], &columns[j], spread), out);
    });
}

#[inline]
fn block(x: &[f32; BLOCK], importance: &[f32; BLOCK], out: &mut [u8; iq4_nl::BYTES]) {
    let scale = scale(x, importance);
    put_f16(out, iq4_nl::D, scale);
    put_4_bits(&mut out[iq4_nl::QS..], &codes(x, inverse(scale)));
}

#[inline]
fn super_block(x: &[[f32; BLOCK]], importance: impl Fn(usize) -> [f32; BLOCK], out: &mut [u8; iq4_xs::BYTES]) {
    let mut scales = [0.0; SUPER_BLOCK / BLOCK];
    for (j, (scale_of, x)) in scales.iter_mut().zip(x).enumerate() {
        *scale_of = scale(x, &importance(j));
    }
    let d = -first_largest(&scales) / 32.0;
    let inverse_d = inverse(d);
    put_f16(out, iq4_xs::D, d);
    let mut levels = [0; SUPER_BLOCK / BLOCK];
    let packed = out[iq4_xs::QS..].as_chunks_mut::<16>().0;
    for (j, ((scale, x), packed)) in scales.iter().zip(x).zip(packed).enumerate() {
        let level = nearest_int(inverse_d * scale).clamp(-32, 31);
        levels[j] = low_byte(level).cast_signed();
        // Of the scale before it is rounded to f16, as in the reference.
        put_4_bits(packed, &codes(x, inverse(d * exact(level))));
    }
    put_iq4_scales(out, levels);
}

/// The scale that fits 32 weights best, of either sign: of each try the least-squares scale for its values, and of these
/// the first by which most is gained.
#[inline]
fn scale(x: &[f32; BLOCK], importance: &[f32; BLOCK]) -> f32 {
    let Some(extreme) = extreme(x) else { return 0.0 };
    let mut inverses = [0.0; TRIES];
    inverses[0] = 1.0 / (extreme / -FIRST);
    for (inverse, step) in inverses[1..].iter_mut().zip(-7..=7) {
        *inverse = (exact(step) + FIRST) / extreme;
    }
    let (sums_vx, sums_v2) = sums(x, importance, &inverses);
    let mut scale = if sums_v2[0] > 0.0 { sums_vx[0] / sums_v2[0] } else { 0.0 };
    let mut best_gain = scale * sums_vx[0];
    for (sum_vx, sum_v2) in sums_vx.iter().zip(&sums_v2).skip(1) {
        if *sum_v2 > 0.0 && sum_vx * sum_vx > best_gain * sum_v2 {
            scale = sum_vx / sum_v2;
            best_gain = scale * sum_vx;
        }
    }
    scale
}

/// For each try the sums of value · weight and of value², both times the importance.
///
/// The scales around one differ by so little that the numbers of a weight, from first to last, have a middle between them
/// at most: of these tries a weight has the lowest number's value, or the next.
#[inline]
fn sums(x: &[f32; BLOCK], importance: &[f32; BLOCK], inverses: &[f32; TRIES]) -> ([f32; TRIES], [f32; TRIES]) {
    let apart = codes(x, inverses[0]);
    let lowest = codes_of(&each(x, |x| {
        let (first, last) = (inverses[1] * x, inverses[TRIES - 1] * x);
        if first < last { first } else { last }
    }));
    let (mut sums_vx, mut sums_v2) = ([0.0; TRIES], [0.0; TRIES]);
    for ((&x, &w), (apart, lowest)) in x.iter().zip(importance).zip(apart.into_iter().zip(lowest)) {
        let lowest = usize::from(lowest & 0xf);
        let (value, middle, step) = (f32::from(UNEVEN[lowest]), MIDDLES[lowest], STEPS[lowest]);
        let mut values = each(inverses, |inverse| value + if inverse * x < middle { 0.0 } else { step });
        values[0] = f32::from(UNEVEN[usize::from(apart & 0xf)]);
        for ((sum_vx, sum_v2), value) in sums_vx.iter_mut().zip(&mut sums_v2).zip(values) {
            *sum_vx += w * value * x;
            *sum_v2 += w * value * value;
        }
    }
    (sums_vx, sums_v2)
}

/// The nearest values for a scale, of which this is the inverse.
#[inline]
fn codes(x: &[f32; BLOCK], inverse: f32) -> [u8; BLOCK] {
    codes_of(&each(x, |x| inverse * x))
}

/// The values that are nearest to numbers.
#[inline]
fn codes_of(numbers: &[f32; BLOCK]) -> [u8; BLOCK] {
    let mut codes = [0.0; BLOCK];
    for middle in &MIDDLES[..15] {
        for (code, number) in codes.iter_mut().zip(numbers) {
            *code += if number < middle { 0.0 } else { 1.0 };
        }
    }
    each(&codes, truncated_byte)
}

/// One over a scale; zero for zero.
#[inline]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(codes(&[number; BLOCK], 1.0), [expected; BLOCK], "{number:e}");
        }
        // The reference's search ends at the last where no comparison holds.
        assert_eq!(codes(&[f32::NAN; BLOCK], 1.0), [15; BLOCK]);
    }
}
