//! Codes and zero points out of packed 32-bit words.
//!
//! Codes are a continuous stream of bits, the lowest first, along the packed dimension: 32 of them are in as many words
//! as a code has bits, whatever that is. Of codes in planes the low bits of all 32 come first, then the high ones.

use qhost_packed::{RUN, mask};

use super::settings::Version;

/// The codes of a run, out of its words in which they are cut into planes: fields of 4, 2 and 1 bits, the wider ones
/// first, as many as there are words. Three bits are two and one.
pub(crate) fn planes(words: &[u32]) -> [u8; RUN] {
    let mut codes = [0; RUN];
    let mut first = 0;
    for width in [4, 2, 1] {
        let Some(plane) = words.get(first..first + width).filter(|_| words.len() & width != 0) else { continue };
        for (index, code) in codes.iter_mut().enumerate() {
            let field = plane[index * width / 32] >> (index * width % 32);
            #[expect(clippy::cast_possible_truncation, reason = "a field has at most 4 bits")]
            let low = field as u8;
            *code |= (low & mask(width)) << first;
        }
        first += width;
    }
    codes
}

/// The zero points `first..first + out.len()` of one group; `word` gives the words of the group.
///
/// In version 1 they are stored less one. The reference reads them so: of 2, 4 and 8 bits one is added to all fields of
/// a word at once, so that a stored −1 that has borrowed from its neighbour comes back as 0 together with it; of others,
/// which cross words, one is added to each field by itself, modulo their range.
pub(crate) fn zeros(word: impl Fn(usize) -> u32, bits: u32, version: Version, first: usize, out: &mut [f32]) {
    let width = bits as usize;
    if version == Version::Planar && !matches!(bits, 2 | 4 | 8) {
        for (zero, index) in out.iter_mut().zip(first..) {
            let words: Vec<u32> = (0..width).map(|place| word(index / RUN * width + place)).collect();
            *zero = f32::from(planes(&words)[index % RUN]);
        }
        return;
    }
    let added = match (version, bits) {
        (Version::V1, 2 | 4 | 8) => (0..32).step_by(width).fold(0, |sum, bit| sum | 1_u32 << bit),
        _ => 0,
    };
    let word = |index| word(index).wrapping_add(added);
    let one = u8::from(version == Version::V1 && !matches!(bits, 2 | 4 | 8));
    for (zero, index) in out.iter_mut().zip(first..) {
        let (at, shift) = (index * width / 32, index * width % 32);
        let low = word(at) >> shift;
        // Only codes whose width does not divide 32 go on in the next word.
        let high = if shift + width > 32 { word(at + 1) << (32 - shift) } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "a zero point has at most 8 bits")]
        let field = ((low | high) as u8) & mask(width);
        *zero = f32::from((field + one) & mask(width));
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::float_cmp, reason = "small whole numbers")]
mod tests {
    use qhost_packed::stream;

    use super::*;

    /// Packs as the format's text says: code `i` in the bits from `i * bits` on.
    fn packed(codes: &[u8], bits: usize) -> Vec<u32> {
        let mut words = vec![0_u32; (codes.len() * bits).div_ceil(32)];
        for (index, code) in codes.iter().enumerate() {
            for bit in (0..bits).filter(|bit| code >> bit & 1 == 1) {
                let at = index * bits + bit;
                words[at / 32] |= 1 << (at % 32);
            }
        }
        words
    }

    fn sample(bits: usize, count: usize) -> Vec<u8> {
        (0..count).map(|index| (index * 37 + index / 7 + 5) as u8 & mask(bits)).collect()
    }

    #[test]
    fn codes_come_back_for_every_width() {
        fn check<const BITS: usize>() {
            let codes = sample(BITS, RUN);
            assert_eq!(stream::<BITS>(&packed(&codes, BITS)).to_vec(), codes, "{BITS} bits");
        }
        check::<2>();
        check::<3>();
        check::<4>();
        check::<5>();
        check::<6>();
        check::<7>();
        check::<8>();
    }

    #[test]
    fn codes_in_planes_come_back() {
        // The widths of the planes from the lowest bits on, as the format's text lists them.
        for widths in [&[2, 1][..], &[4, 1], &[4, 2], &[4, 2, 1]] {
            let bits: usize = widths.iter().sum();
            let expected = sample(bits, 64);
            let mut words = Vec::new();
            for run in expected.chunks(RUN) {
                let mut low = 0;
                for width in widths {
                    let plane: Vec<u8> = run.iter().map(|code| code >> low & mask(*width)).collect();
                    words.extend(packed(&plane, *width));
                    low += width;
                }
            }
            assert_eq!(planes(&words[..bits]).to_vec(), expected[..RUN], "{bits} bits");
            for first in [0, 7, 32] {
                let mut out = vec![0.0; 64 - first];
                zeros(|at| words[at], bits as u32, Version::Planar, first, &mut out);
                let expected: Vec<f32> = expected[first..].iter().map(|zero| f32::from(*zero)).collect();
                assert_eq!(out, expected, "{bits} bits from {first}");
            }
        }
    }

    #[test]
    fn zero_points_come_back_in_both_versions_from_any_place() {
        for bits in 2_usize..=8 {
            // At least 1, so that version 1 borrows nothing.
            let expected: Vec<u8> = sample(bits, 96).into_iter().map(|zero| zero.max(1)).collect();
            for (version, less) in [(Version::V1, 1), (Version::V2, 0)] {
                let words = packed(&expected.iter().map(|zero| zero - less).collect::<Vec<_>>(), bits);
                for first in [0, 1, 10, 21, 31, 64] {
                    let mut out = vec![0.0; 96 - first];
                    zeros(|at| words[at], bits as u32, version, first, &mut out);
                    let expected: Vec<f32> = expected[first..].iter().map(|zero| f32::from(*zero)).collect();
                    assert_eq!(out, expected, "{bits} bits from {first}");
                }
            }
        }
    }

    #[test]
    fn a_zero_that_borrowed_from_its_neighbour_comes_back_with_it() {
        // What the reference stores for the zero points 0, 8, 0, 0, 15, 1, 0, 3: all fields less one at once.
        let word = packed(&[0, 8, 0, 0, 15, 1, 0, 3], 4)[0].wrapping_sub(0x1111_1111);
        let mut out = [0.0; 8];
        zeros(|_| word, 4, Version::V1, 0, &mut out);
        assert_eq!(out, [0.0, 8.0, 0.0, 0.0, 15.0, 1.0, 0.0, 3.0]);
        let fields = packed(&[7, 0, 6, 7].repeat(8), 3);
        let mut out = [0.0; 32];
        zeros(|at| fields[at], 3, Version::V1, 0, &mut out);
        assert_eq!(out[..4], [0.0, 1.0, 7.0, 0.0]);
    }
}
