//! Codes, zero-points, scales and groups as the tensors of GPTQ files have them.
//!
//! Codes are a stream of bits, the lowest first, in words of 32: down the inputs for each output (`qweight`), along the
//! outputs for each group (`qzeros`). It knows no files.

use std::ops::Range;

use qhost_linears::{Module, Multiples, Part};
use qhost_plugin_api::sdk::{Failure, Result};
use qhost_rounding::f16;

use crate::options::CheckpointFormat;

/// Bytes of a word.
const WORD: usize = 4;

/// The places of a module's tensors in its order.
pub(crate) const CODES: u32 = 0;
/// The zero-points.
pub(crate) const ZEROS: u32 = 1;
/// The scales.
pub(crate) const SCALES: u32 = 2;
/// The group of every input.
pub(crate) const GROUPS: u32 = 3;

/// The tensors of a module, in this order.
pub(crate) fn parts(module: &Module) -> Vec<Part> {
    let packed = |codes: u64| {
        let (count, words) = period(module.settings.bits);
        codes / count as u64 * words as u64
    };
    let (rows, columns, groups) = (module.rows, module.columns, module.groups());
    vec![
        Part::codes("qweight", "I32", vec![packed(columns), rows], module),
        Part::beside("qzeros", "I32", vec![groups, packed(rows)]),
        Part::beside("scales", "F16", vec![groups, rows]),
        Part::beside("g_idx", "I32", vec![columns]),
    ]
}

/// What the lengths of a matrix must be multiples of: codes fill whole words along both.
pub(crate) fn multiples(bits: u32) -> Multiples {
    let (count, _) = period(bits);
    Multiples { rows: count as u64, columns: count as u64 }
}

/// So many codes that fill whole words, and these words.
///
/// With 3 bits, 32 codes are in 3 words, and some lie in two of them.
pub(crate) fn period(bits: u32) -> (usize, usize) {
    match bits {
        2 => (16, 1),
        3 => (32, 3),
        8 => (4, 1),
        _ => (8, 1),
    }
}

/// Packs the codes of some periods of inputs, for all outputs: rows of `qweight`.
///
/// `codes` are those of all `columns` inputs, output by output. `out` has a place for the words of these periods.
pub(crate) fn pack_codes(codes: &[u8], columns: usize, bits: u32, periods: Range<usize>, out: &mut [u8]) {
    let (count, words) = period(bits);
    let rows = codes.len() / columns.max(1);
    for (place, period) in periods.enumerate() {
        let out = &mut out[place * words * rows * WORD..][..words * rows * WORD];
        for (row, codes) in codes.chunks_exact(columns).enumerate() {
            let packed = pack(codes[period * count..][..count].iter().copied(), bits);
            for (word, bytes) in packed.to_le_bytes().chunks_exact(WORD).take(words).enumerate() {
                out[(word * rows + row) * WORD..][..WORD].copy_from_slice(bytes);
            }
        }
    }
}

/// The bits of the codes of one period, or of fewer.
fn pack(codes: impl Iterator<Item = u8>, bits: u32) -> u128 {
    codes.zip((0..).step_by(bits as usize)).fold(0, |packed, (code, shift)| packed | u128::from(code) << shift)
}

/// Packs zero-points, which are given output by output: the whole of `qzeros`.
pub(crate) fn pack_zeros(zeros: &[u8], groups: usize, bits: u32, format: CheckpointFormat) -> Result<Vec<u8>> {
    let (count, words) = period(bits);
    let less = u8::from(format == CheckpointFormat::V1);
    if zeros.iter().any(|zero| *zero < less) {
        // It would borrow from its neighbour in the word.
        return Err(Failure::internal("a zero-point of 0 cannot be stored less one"));
    }
    let rows = zeros.len() / groups.max(1);
    let mut out = Vec::with_capacity(groups * rows / count * words * WORD);
    for group in 0..groups {
        for first in (0..rows).step_by(count) {
            let of_outputs = (first..rows.min(first + count)).map(|row| zeros[row * groups + group] - less);
            out.extend(&pack(of_outputs, bits).to_le_bytes()[..words * WORD]);
        }
    }
    Ok(out)
}

/// Turns scales, which are given output by output, to those of each group: the whole of `scales`.
pub(crate) fn pack_scales(scales: &[f16], groups: usize) -> Vec<u8> {
    let rows = scales.len() / groups.max(1);
    let of_group = |group| (0..rows).map(move |row| scales[row * groups + group]);
    (0..groups).flat_map(of_group).flat_map(f16::to_le_bytes).collect()
}

/// The group of every input: the whole of `g_idx`.
pub(crate) fn pack_groups(groups: impl Iterator<Item = u32>) -> Vec<u8> {
    groups.flat_map(u32::to_le_bytes).collect()
}

/// The values in packed words, the lowest bits first.
pub(crate) fn unpack(bytes: &[u8], bits: u32) -> impl Iterator<Item = u8> {
    let (count, words) = period(bits);
    let mask = u128::from(u8::MAX >> (8 - bits.clamp(1, 8)));
    bytes.chunks_exact(words * WORD).flat_map(move |bytes| {
        let mut packed = [0; 16];
        packed[..bytes.len()].copy_from_slice(bytes);
        let packed = u128::from_le_bytes(packed);
        // Masked to a byte.
        (0..count).map(move |index| (packed >> (index * bits as usize) & mask).to_le_bytes()[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the format's text has it: code `i` occupies the bits from `i · b` on, of words that stand in a
    /// column of a matrix `[words][outputs]`, or in a row.
    fn bit(words: &[u32], position: usize) -> u8 {
        u8::try_from(words[position / 32] >> (position % 32) & 1).unwrap()
    }

    fn code(words: &[u32], index: usize, bits: u32) -> u8 {
        let width = bits as usize;
        (0..width).fold(0, |code, place| code | bit(words, index * width + place) << place)
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    fn noise(count: usize, below: u8, mut state: u64) -> Vec<u8> {
        let next = || {
            // Knuth's MMIX generator; its high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[6] % below
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn every_code_is_where_the_bit_stream_has_it() {
        for bits in [2, 3, 4, 8_u32] {
            let largest = u8::MAX >> (8 - bits);
            let (count, of_period) = period(bits);
            for (rows, columns) in [(1, count), (3, 2 * count), (32, 5 * count)] {
                let codes: Vec<_> =
                    noise(rows * columns, u8::MAX, u64::from(bits)).iter().map(|c| c & largest).collect();
                let mut packed = vec![0; columns / count * of_period * rows * WORD];
                // In two parts, as threads do it.
                let half = columns / count / 2;
                let (front, back) = packed.split_at_mut(half * of_period * rows * WORD);
                pack_codes(&codes, columns, bits, 0..half, front);
                pack_codes(&codes, columns, bits, half..columns / count, back);
                let packed = words(&packed);
                assert_eq!(packed.len(), columns * bits as usize / 32 * rows);
                for row in 0..rows {
                    let column: Vec<_> = packed.iter().skip(row).step_by(rows).copied().collect();
                    for index in 0..columns {
                        assert_eq!(code(&column, index, bits), codes[row * columns + index], "{bits} {row} {index}");
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_are_stored_less_one_or_as_they_are() {
        for (bits, format) in
            [2, 3, 4, 8].into_iter().flat_map(|b| [(b, CheckpointFormat::V1), (b, CheckpointFormat::V2)])
        {
            let largest = u8::MAX >> (8 - bits);
            let (rows, groups) = (32, 3);
            let zeros: Vec<_> = noise(rows * groups, largest, 9).iter().map(|zero| zero + 1).collect();
            let packed = pack_zeros(&zeros, groups, bits, format).unwrap();
            let words = words(&packed);
            let in_row = rows * bits as usize / 32;
            assert_eq!(words.len(), groups * in_row);
            let less = u8::from(format == CheckpointFormat::V1);
            for (group, words) in words.chunks(in_row).enumerate() {
                for row in 0..rows {
                    assert_eq!(code(words, row, bits), zeros[row * groups + group] - less, "{bits} {group} {row}");
                }
            }
            let unpacked: Vec<_> = unpack(&packed, bits).collect();
            let expected = (0..groups)
                .flat_map(|group| (0..rows).map(move |row| (row, group)))
                .map(|(r, g)| zeros[r * groups + g] - less);
            assert_eq!(unpacked, expected.collect::<Vec<_>>());
        }
        assert!(pack_zeros(&[0; 8], 1, 4, CheckpointFormat::V1).is_err());
        assert_eq!(words(&pack_zeros(&[8; 8], 1, 4, CheckpointFormat::V1).unwrap()), [0x7777_7777]);
    }

    #[test]
    fn scales_and_groups_are_turned() {
        let scales = [1.0, 2.0, -3.0, 4.0].map(f16::from_f32);
        let turned = [1.0, -3.0, 2.0, 4.0].map(f16::from_f32);
        assert_eq!(pack_scales(&scales, 2), turned.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(pack_groups([0, 1].into_iter()), [0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
