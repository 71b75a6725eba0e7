//! Codes, zero-points and scales as the tensors of `AutoAWQ`'s GEMM layout have them.
//!
//! Eight neighbouring outputs share a word of 32 bits, in the order in which the kernels take them apart. It knows no
//! files.

use std::ops::Range;

use qhost_linears::{Module, Part};
use qhost_rounding::f16;

/// The tensors of a module, by their places.
pub(crate) const QWEIGHT: u32 = 0;
/// The zero-points.
pub(crate) const QZEROS: u32 = 1;
/// The scales.
pub(crate) const SCALES: u32 = 2;

/// The tensors of a module.
pub(crate) fn parts(module: &Module) -> Vec<Part> {
    let words = module.rows / CODES as u64;
    vec![
        Part::codes("qweight", "I32", vec![module.columns, words], module),
        Part::beside("qzeros", "I32", vec![module.groups(), words]),
        Part::beside("scales", "F16", vec![module.groups(), module.rows]),
    ]
}

/// Bytes of a word.
const WORD: usize = 4;

/// Codes in a word.
pub(crate) const CODES: usize = 8;

/// The output, of eight neighbours, whose code is in a place of a word, the lowest bits first.
const ORDER: [usize; CODES] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Packs the codes of some inputs, for all outputs: rows of `qweight`.
///
/// `codes` are those of all `columns` inputs, output by output. `out` has a place for the words of these inputs.
pub(crate) fn pack_codes(codes: &[u8], columns: usize, inputs: Range<usize>, out: &mut [u8]) {
    let words = codes.len() / columns.max(1) / CODES;
    for (word, codes) in codes.chunks_exact(CODES * columns).enumerate() {
        let of_places = ORDER.map(|output| &codes[output * columns..][inputs.clone()]);
        for (row, out) in out.chunks_exact_mut(words * WORD).enumerate() {
            let packed = pack(of_places.map(|codes| codes[row]));
            out[word * WORD..][..WORD].copy_from_slice(&packed.to_le_bytes());
        }
    }
}

/// A word of codes that are in the order of their places.
fn pack(codes: [u8; CODES]) -> u32 {
    codes.iter().zip((0..).step_by(4)).fold(0, |packed, (code, shift)| packed | u32::from(*code) << shift)
}

/// Packs zero-points, which are given output by output: the whole of `qzeros`.
pub(crate) fn pack_zeros(zeros: &[u8], groups: usize) -> Vec<u8> {
    let of_group =
        |group| zeros.chunks_exact(CODES * groups).map(move |zeros| ORDER.map(|o| zeros[o * groups + group]));
    (0..groups).flat_map(of_group).flat_map(|codes| pack(codes).to_le_bytes()).collect()
}

/// Turns scales, which are given output by output, to those of each group: the whole of `scales`.
pub(crate) fn pack_scales(scales: &[f16], groups: usize) -> Vec<u8> {
    let rows = scales.len() / groups.max(1);
    let of_group = |group| (0..rows).map(move |row| scales[row * groups + group]);
    (0..groups).flat_map(of_group).flat_map(f16::to_le_bytes).collect()
}

/// The values in packed words, in the order of the words' outputs.
pub(crate) fn unpack(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.as_chunks().0.iter().flat_map(|bytes| {
        let packed = u32::from_le_bytes(*bytes);
        let mut codes = [0; CODES];
        for (place, output) in ORDER.into_iter().enumerate() {
            codes[output] = (packed >> (4 * place)).to_le_bytes()[0] & 15;
        }
        codes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers below 16 that look random.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let next = || {
            // Knuth's MMIX generator; its high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7] & 15
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// As the format's text has it: bits `4i..4i+4` of a word hold output `[0, 2, 4, 6, 1, 3, 5, 7][i]` of its eight.
    fn code(words: &[u32], output: usize) -> u8 {
        let place = [0, 4, 1, 5, 2, 6, 3, 7][output % 8];
        u8::try_from(words[output / 8] >> (4 * place) & 15).unwrap()
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn every_code_is_where_the_layout_has_it() {
        for (rows, columns) in [(8, 1), (24, 10), (64, 33)] {
            let codes = noise(rows * columns);
            let mut packed = vec![0; rows / CODES * columns * WORD];
            // In two parts, as threads do it.
            let half = columns / 2;
            let (front, back) = packed.split_at_mut(half * rows / CODES * WORD);
            pack_codes(&codes, columns, 0..half, front);
            pack_codes(&codes, columns, half..columns, back);
            let packed = words(&packed);
            for (input, words) in packed.chunks(rows / 8).enumerate() {
                for row in 0..rows {
                    assert_eq!(code(words, row), codes[row * columns + input], "{rows} {columns} {row} {input}");
                }
            }
        }
    }

    #[test]
    fn zeros_are_packed_in_the_same_order_and_come_back() {
        let (rows, groups) = (32, 3);
        let zeros = noise(rows * groups);
        let packed = pack_zeros(&zeros, groups);
        for (group, words) in words(&packed).chunks(rows / 8).enumerate() {
            for row in 0..rows {
                assert_eq!(code(words, row), zeros[row * groups + group], "{row} {group}");
            }
        }
        let expected: Vec<_> = (0..groups).flat_map(|g| zeros.iter().skip(g).step_by(groups).copied()).collect();
        assert_eq!(unpack(&packed).collect::<Vec<_>>(), expected);
        assert_eq!(words(&pack_zeros(&[0, 1, 2, 3, 4, 5, 6, 7], 1)), [0x7531_6420]);
    }

    #[test]
    fn scales_are_turned() {
        let scales = [1.0, 2.0, -3.0, 4.0].map(f16::from_f32);
        let turned = [1.0, -3.0, 2.0, 4.0].map(f16::from_f32);
        assert_eq!(pack_scales(&scales, 2), turned.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<_>>());
    }
}
