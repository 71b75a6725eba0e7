//! One packed linear: what follows from its scheme and the shapes of its tensors, its codes and its zero-points.

use std::ops::Range;

use qhost_folder::{Folder, StoredAt};
use qhost_packed::{Linear, RUN, Shape, Tensors, in_memory, mask, matrix, misshapen, stream, word};
use qhost_plugin_api::sdk::{Failure, Result};

use super::settings::Settings;

/// The ending of the name of the tensor that has the lengths of the matrix.
pub(super) const LENGTHS: &str = ".weight_shape";

/// How codes lie in words. Where their width divides 32 it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A stream of bits: codes go on in the next word.
    Dense,
    /// As many whole codes as a word has room for, as the package packed before 0.18.
    Padded,
}

impl Layout {
    /// How so many codes lie in so many words; none if they cannot.
    fn of(codes: usize, bits: u32, words: usize) -> Option<Self> {
        [Self::Dense, Self::Padded].into_iter().find(|layout| layout.words(codes, bits) == words)
    }

    /// Words that so many codes take.
    fn words(self, codes: usize, bits: u32) -> usize {
        match self {
            Self::Dense => codes.saturating_mul(bits as usize).div_ceil(32),
            Self::Padded => codes.div_ceil(32 / bits.max(1) as usize),
        }
    }

    /// The code at an index, out of the words that `word` gives.
    fn code(self, word: impl Fn(usize) -> u32, bits: u32, index: usize) -> u8 {
        let width = bits as usize;
        let (at, shift) = match self {
            Self::Dense => (index * width / 32, index * width % 32),
            Self::Padded => (index / (32 / width), index % (32 / width) * width),
        };
        let low = word(at) >> shift;
        let high = if shift + width > 32 { word(at + 1) << (32 - shift) } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "a code has at most 8 bits")]
        let code = (low | high) as u8;
        code & mask(width)
    }
}

/// The weights of a linear by the tensor that has its lengths.
pub(super) fn told_weights(folder: &Folder<'_>, module: &str, codes: &StoredAt) -> Result<Option<u64>> {
    let name = format!("{module}{LENGTHS}");
    let missing = || Failure::corrupt(format!("its tensor {name} is not there")).about(module);
    let tensor = folder.tensor(&name).ok_or_else(missing)?;
    if tensor.dtype != "I64" || tensor.shape != [2] {
        return Err(misshapen(tensor, &format!("it has two lengths as I64, and this is {}", tensor.dtype)));
    }
    let (outputs, _) = matrix(codes)?;
    let wrong = |what: String| Err(Failure::corrupt(what).about(&*name));
    match *folder.data(tensor).as_chunks().0 {
        [rows, columns] => {
            let (rows, columns) = (i64::from_le_bytes(rows), i64::from_le_bytes(columns));
            match (usize::try_from(rows), u64::try_from(columns)) {
                (Ok(rows), Ok(columns)) if rows == outputs && columns > 0 => Ok((rows as u64).checked_mul(columns)),
                _ => wrong(format!("it says {rows} × {columns}, and {} has {outputs} rows", codes.name)),
            }
        }
        _ => wrong("its data are not in the file".into()),
    }
}

/// What the shapes of a linear's tensors say, held against the settings.
///
/// # Errors
/// Fails with kind `CORRUPT`, naming the tensor, when one has an impossible shape.
pub(super) fn shape(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    let (packed, scales) = (tensors.codes, tensors.scales);
    let scheme = settings.scheme(&tensors.name).ok_or_else(|| {
        Failure::corrupt(format!("it is packed, and no group of {} is about it", settings.file)).about(&*tensors.name)
    })?;
    let (outputs, words) = matrix(packed)?;
    let (scale_rows, groups) = matrix(scales)?;
    if scale_rows != outputs {
        return Err(misshapen(scales, &format!("{} has {outputs} rows", packed.name)));
    }
    // Lengths are told; else shapes would not tell how many codes of the last word are there.
    let inputs = match tensors.weights {
        Some(weights) if outputs > 0 => in_memory(weights / outputs as u64)?,
        _ => return Err(misshapen(packed, "its lengths are not told")),
    };
    let bits = scheme.bits;
    let layout = Layout::of(inputs, bits, words).ok_or_else(|| {
        let expected = Layout::Dense.words(inputs, bits);
        misshapen(packed, &format!("{inputs} codes of {bits} bits take {expected} words, by `{}`", scheme.name))
    })?;
    let group_size = scheme.group_size.map_or(Ok(inputs), in_memory)?;
    if group_size == 0 || !inputs.is_multiple_of(group_size) || inputs / group_size != groups {
        return Err(misshapen(
            scales,
            &format!("{inputs} inputs in groups of {group_size} do not make as many groups"),
        ));
    }
    match (tensors.zeros, scheme.symmetric) {
        (None, true) => {}
        (Some(zeros), false) => {
            let (zero_words, zero_groups) = matrix(zeros)?;
            if zero_groups != groups || zero_words != layout.words(outputs, bits) {
                let expected = layout.words(outputs, bits);
                return Err(misshapen(
                    zeros,
                    &format!("it has {expected} rows of {groups}, as {bits} bits are packed"),
                ));
            }
        }
        (Some(zeros), true) => {
            return Err(misshapen(zeros, &format!("`{}` is symmetric and has no zero points", scheme.name)));
        }
        (None, false) => {
            let missing = format!("its zero points are not there, and `{}` is not symmetric", scheme.name);
            return Err(Failure::corrupt(missing).about(&*tensors.name));
        }
    }
    if let Some(order) = tensors.order.filter(|order| order.shape != [inputs as u64]) {
        return Err(misshapen(order, &format!("there are {inputs} inputs")));
    }
    let whole_rows = scheme.group_size.is_none();
    Ok(Shape { bits, inputs, outputs, groups, group_size, whole_rows, scales_of_output: Some(groups) })
}

/// How the codes of a linear lie in words.
pub(super) fn layout(linear: &Linear) -> Layout {
    let words = usize::try_from(linear.codes.bytes).unwrap_or(0) / 4 / linear.shape.outputs.max(1);
    Layout::of(linear.shape.inputs, linear.shape.bits, words).unwrap_or(Layout::Dense)
}

/// Fills `out` with the codes of rows.
pub(super) fn codes(linear: &Linear, packed: &[u8], rows: &Range<usize>, out: &mut [u8]) {
    let (inputs, bits, layout) = (linear.shape.inputs, linear.shape.bits, layout(linear));
    let of_row = layout.words(inputs, bits);
    let run = |words: &[u32]| match bits {
        2 => stream::<2>(words),
        3 => stream::<3>(words),
        4 => stream::<4>(words),
        5 => stream::<5>(words),
        6 => stream::<6>(words),
        7 => stream::<7>(words),
        _ => stream::<8>(words),
    };
    let mut words = vec![0; of_row];
    for (row, out) in rows.clone().zip(out.chunks_exact_mut(inputs.max(1))) {
        for (at, found) in words.iter_mut().enumerate() {
            *found = word(packed, row * of_row + at);
        }
        match layout {
            // The last run may have fewer words, and fewer codes.
            Layout::Dense => {
                for (out, words) in out.chunks_mut(RUN).zip(words.chunks(bits as usize)) {
                    out.copy_from_slice(&run(words)[..out.len()]);
                }
            }
            Layout::Padded => {
                for (index, code) in out.iter_mut().enumerate() {
                    *code = layout.code(|at| words[at], bits, index);
                }
            }
        }
    }
}

/// The zero points of outputs from `first` on, of one group.
pub(super) fn zeros(linear: &Linear, packed: Option<&[u8]>, group: usize, first: usize, out: &mut [f32]) {
    let (bits, groups) = (linear.shape.bits, linear.shape.groups);
    let Some(packed) = packed else { return out.fill(f32::from(1_u16 << (bits - 1))) };
    let layout = layout(linear);
    for (zero, output) in out.iter_mut().zip(first..) {
        *zero = f32::from(layout.code(|at| word(packed, at * groups + group), bits, output));
    }
}

/// The zero point of an output in one of so many groups, out of a whole tensor of them.
pub(crate) fn stored_zero(packed: &[u8], (group, groups): (usize, usize), bits: u32, output: usize) -> u8 {
    Layout::Dense.code(|at| word(packed, at * groups + group), bits, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_one_word_lie_alike_and_others_as_their_words_tell() {
        assert_eq!(Layout::of(256, 3, 24), Some(Layout::Dense));
        assert_eq!(Layout::of(256, 3, 26), Some(Layout::Padded));
        assert_eq!(Layout::of(256, 3, 25), None);
        assert_eq!((Layout::of(256, 4, 32), Layout::of(10, 3, 1)), (Some(Layout::Dense), Some(Layout::Dense)));
        // 7 and 5 bits: the sixth code begins in one word and ends in the next.
        let words = [0xffff_ffff_u32, 0b101];
        assert_eq!(Layout::Dense.code(|at| words[at], 6, 5), 0b01_0111 & 0b11 | 0b01_0100);
        assert_eq!(Layout::Padded.code(|at| words[at], 6, 5), 0b101);
    }
}
