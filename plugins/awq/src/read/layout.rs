//! The layouts of the format: where the code of an input and an output is, and its scale and zero point.
//!
//! It knows words, and nothing of files or settings.

use super::unpack::{OUTPUTS, SHIFTS, field};

/// How codes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Eight outputs in a word of 32 bits; inputs are rows.
    Gemm,
    /// Eight inputs in a word of 32 bits; outputs are rows, and what belongs to groups is filled up to whole tiles.
    Gemv,
    /// Four inputs in a word of 16 bits; four outputs are a row, and in the place of zero points there are minima.
    Fast,
}

/// Inputs of a word of [`Layout::Gemv`].
pub(crate) const OF_WORD: usize = 8;
/// Outputs of a row of [`Layout::Fast`].
pub(crate) const OF_ROW: usize = 4;
/// Inputs of a tile of [`Layout::Fast`], and the words that an output has of it.
pub(crate) const TILE: usize = 64;
const WORDS_OF_TILE: usize = TILE / 4;

impl Layout {
    /// The layout of a name in lower case. The kernels of `ExLlama` and for CPUs take the first as it is.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "gemm" | "exllama" | "exllamav2" | "ipex" => Some(Self::Gemm),
            "gemv" => Some(Self::Gemv),
            "gemv_fast" | "llm-awq" | "llm_awq" => Some(Self::Fast),
            _ => None,
        }
    }

    /// Its name in settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Gemv => "gemv",
            Self::Fast => "gemv_fast",
        }
    }
}

/// How many words hold the zero points of an output, filled up so that kernels read whole ones: of so many groups of such
/// a size.
pub(crate) fn padded_words(groups: usize, group_size: usize) -> usize {
    let multiple = match group_size {
        128.. => 1,
        64.. => 2,
        32.. => 4,
        _ => 8,
    };
    groups.div_ceil(OF_WORD).next_multiple_of(multiple)
}

/// The word at an index of words of 32 bits.
fn word(bytes: &[u8], index: usize) -> u32 {
    qhost_packed::word(bytes, index)
}

/// The word at an index of words of 16 bits.
fn half_word(bytes: &[u8], index: usize) -> u16 {
    bytes.as_chunks::<2>().0.get(index).map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// Fills `out` with the codes of an output, for layouts in which they lie in runs.
pub(crate) fn codes_of_output(layout: Layout, data: &[u8], output: usize, out: &mut [u8]) {
    let inputs = out.len();
    match layout {
        Layout::Gemm => {}
        Layout::Gemv => {
            let words = inputs / OF_WORD;
            for (at, codes) in out.chunks_exact_mut(OF_WORD).enumerate() {
                nibbles(word(data, output * words + at), codes.iter_mut());
            }
        }
        Layout::Fast => {
            let row = output / OF_ROW * inputs;
            for (tile, codes) in out.chunks_exact_mut(TILE).enumerate() {
                let first = row + tile * TILE + output % OF_ROW * WORDS_OF_TILE;
                // A word has every eighth input of one of the tile's halves.
                for (half, codes) in codes.chunks_exact_mut(TILE / 2).enumerate() {
                    for place in 0..8 {
                        let found = half_word(data, first + half * 8 + place);
                        nibbles(found.into(), codes[place..].iter_mut().step_by(8));
                    }
                }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4 bits")]
fn nibbles<'a>(word: u32, places: impl Iterator<Item = &'a mut u8>) {
    places.zip((0..32).step_by(4)).for_each(|(code, shift)| *code = (word >> shift) as u8 & 15);
}

/// Inputs that are taken apart together.
const RUN: usize = 32;

/// Fills `out` with the codes of outputs from `first` on, of [`Layout::Gemm`]: runs of inputs for all of them one after
/// the other, since the words of neighbouring outputs lie beside each other.
#[expect(clippy::cast_possible_truncation, reason = "4 bits")]
pub(crate) fn codes_by_input(data: &[u8], outputs: usize, inputs: usize, first: usize, out: &mut [u8]) {
    let columns = outputs / OUTPUTS;
    let mut words = [0; RUN];
    for start in (0..inputs).step_by(RUN) {
        let words = &mut words[..RUN.min(inputs - start)];
        let mut column = None;
        for (row, codes) in (first..).zip(out.chunks_exact_mut(inputs)) {
            if column.replace(row / OUTPUTS) != Some(row / OUTPUTS) {
                for (found, input) in words.iter_mut().zip(start..) {
                    *found = word(data, input * columns + row / OUTPUTS);
                }
            }
            let shift = SHIFTS[row % OUTPUTS];
            for (code, word) in codes[start..].iter_mut().zip(&*words) {
                *code = (word >> shift) as u8 & 15;
            }
        }
    }
}

/// The zero point of an output in a group, of [`Layout::Gemm`] and [`Layout::Gemv`].
pub(crate) fn zero(layout: Layout, data: &[u8], (outputs, words): (usize, usize), output: usize, group: usize) -> u8 {
    match layout {
        Layout::Gemv => word(data, output * words + group / OF_WORD) >> (4 * (group % OF_WORD)) & 15,
        _ => field(word(data, group * (outputs / OUTPUTS) + output / OUTPUTS), output).into(),
    }
    .to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes that are all different in their places, output by output.
    fn code(output: usize, input: usize) -> u8 {
        u8::try_from((output * 7 + input * 5 + input / 16 + output * input % 3) % 16).unwrap()
    }

    /// As the public packer has it, step by step: columns are put in order within 32, then within eights, then four
    /// outputs are put beside each other in tiles of 64 columns, and four codes that follow each other are a word.
    fn packed_fast(outputs: usize, inputs: usize) -> Vec<u8> {
        let mut rows = Vec::new();
        for output in 0..outputs {
            let mut row = Vec::new();
            for block in 0..inputs / 32 {
                // [4][4][2] → [4][2][4] with the first two turned before.
                for (second, third) in (0..4).flat_map(|second| (0..2).map(move |third| (second, third))) {
                    row.extend((0..4).map(|first| code(output, block * 32 + first * 8 + second * 2 + third)));
                }
            }
            rows.push(row);
        }
        let mut bytes = Vec::new();
        for four in rows.chunks(4) {
            for tile in 0..inputs / 64 {
                let all: Vec<u8> = four.iter().flat_map(|row| row[tile * 64..][..64].to_vec()).collect();
                for word in all.chunks(4) {
                    let word = word.iter().zip((0..16).step_by(4)).fold(0_u16, |w, (c, s)| w | u16::from(*c) << s);
                    bytes.extend(word.to_le_bytes());
                }
            }
        }
        bytes
    }

    #[test]
    fn interleaved_codes_are_found() {
        let (outputs, inputs) = (8, 192);
        let bytes = packed_fast(outputs, inputs);
        for output in 0..outputs {
            let mut found = vec![0; inputs];
            codes_of_output(Layout::Fast, &bytes, output, &mut found);
            let expected: Vec<_> = (0..inputs).map(|input| code(output, input)).collect();
            assert_eq!(found, expected, "{output}");
        }
    }

    #[test]
    fn the_width_of_zero_points_is_that_of_whole_tiles() {
        // Inputs, the size of a group, and the words that AutoAWQ makes room for.
        for (inputs, size, words) in [
            (4096, 128, 4),
            (11008, 128, 11),
            (4096, 64, 8),
            (704, 64, 2),
            (1408, 64, 4),
            (4096, 32, 16),
            (64, 32, 4),
            (64, 16, 8),
            (256, 256, 1),
        ] {
            assert_eq!(padded_words(inputs / size, size), words, "{inputs} in groups of {size}");
        }
    }

    #[test]
    fn names_are_of_layouts_or_of_kernels_that_take_them() {
        assert_eq!(Layout::of("exllamav2"), Some(Layout::Gemm));
        assert_eq!(Layout::of("llm-awq"), Some(Layout::Fast));
        assert_eq!(Layout::of("marlin"), None);
        for layout in [Layout::Gemm, Layout::Gemv, Layout::Fast] {
            assert_eq!(Layout::of(layout.name()), Some(layout));
        }
    }
}
