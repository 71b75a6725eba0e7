//! One or two bits under one scale: the ternary types, and the plain ones of one and two bits.

use super::signed;
use crate::layout::{SUPER_BLOCK, f16, q1_0, q2_0, tq1_0, tq2_0};

/// Five digits of base three are one byte, as a fraction of 256; these bring each digit to the front.
const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

#[inline]
pub(crate) fn tq1_0(block: &[u8; tq1_0::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, tq1_0::D);
    for (out, digit) in out.iter_mut().zip(digits(block)) {
        *out = signed(digit, 1) * d;
    }
}

#[inline]
pub(crate) fn tq2_0(block: &[u8; tq2_0::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, tq2_0::D);
    let parts = block[tq2_0::QS..tq2_0::D].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<128>().0);
    for (packed, out) in parts {
        for (l, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, packed) in out.iter_mut().zip(packed) {
                *out = signed(packed >> (2 * l) & 3, 1) * d;
            }
        }
    }
}

#[inline]
pub(crate) fn q1_0(block: &[u8; q1_0::BYTES], out: &mut [f32; q1_0::WEIGHTS]) {
    let d = f16(block, q1_0::D);
    for (j, out) in out.iter_mut().enumerate() {
        *out = if block[q1_0::QS + j / 8] >> (j % 8) & 1 == 0 { -d } else { d };
    }
}

#[inline]
pub(crate) fn q2_0(block: &[u8; q2_0::BYTES], out: &mut [f32; q2_0::WEIGHTS]) {
    let d = f16(block, q2_0::D);
    for (j, out) in out.iter_mut().enumerate() {
        *out = signed(block[q2_0::QS + j / 4] >> (2 * (j % 4)) & 3, 1) * d;
    }
}

/// The digits of a block of TQ1_0, in the order of its weights.
#[inline]
pub(super) fn digits(block: &[u8; tq1_0::BYTES]) -> impl Iterator<Item = u8> {
    let (long, rest) = block[tq1_0::QS..tq1_0::QH].split_at(32);
    let four = &block[tq1_0::QH..tq1_0::D];
    [(long, 5), (rest, 5), (four, 4)].into_iter().flat_map(|(packed, count)| {
        let powers = POWERS_OF_3[..count].iter();
        powers.flat_map(move |power| packed.iter().map(|packed| leading_digit(packed.wrapping_mul(*power))))
    })
}

#[inline]
fn leading_digit(fraction: u8) -> u8 {
    let [_, digit] = (u16::from(fraction) * 3).to_le_bytes();
    digit
}
