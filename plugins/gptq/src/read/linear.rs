//! One packed linear: what follows from the shapes of its tensors, and its codes.
//!
//! Bits and groups follow from shapes as far as they can, because the config's rules for single linears are patterns
//! that every program reads a little differently; the config only has to agree.

use std::ops::Range;

use qhost_packed::{Linear, RUN, Shape, Tensors, in_memory, matrix, misshapen, stream, word};
use qhost_plugin_api::sdk::Result;

use super::{
    settings::{BITS, Settings, Version},
    unpack::planes,
};

/// What the shapes of a linear's tensors say, held against the settings.
///
/// # Errors
/// Fails with kind `CORRUPT`, naming the tensor, when one has an impossible shape.
pub(super) fn shape(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    let (packed, scales) = (tensors.codes, tensors.scales);
    let (rows, outputs) = matrix(packed)?;
    let (groups, scale_columns) = matrix(scales)?;
    if scale_columns != outputs {
        return Err(misshapen(scales, &format!("{} has {outputs} columns", packed.name)));
    }
    let bits = bits(settings, tensors, outputs, groups)?;
    let inputs = match tensors.order.map(|order| (order, order.shape.as_slice())) {
        None if packed_len(rows * 32 / bits as usize, bits) == rows => rows * 32 / bits as usize,
        None => return Err(misshapen(packed, &format!("codes of {bits} bits do not fill its rows"))),
        Some((_, &[inputs])) if packed_len(in_memory(inputs)?, bits) == rows => in_memory(inputs)?,
        Some((order, _)) => {
            return Err(misshapen(order, &format!("{} has {rows} rows of {bits}-bit codes", packed.name)));
        }
    };
    if inputs == 0 {
        return Err(misshapen(packed, "a linear has inputs, outputs and groups"));
    }
    // Of those that are possible it is the one that gives as many groups as there are scales; none stands for whole rows.
    let sizes = settings.possible_groups().map(|size| usize::try_from(size).ok().filter(|size| *size <= inputs));
    let fits = |size: &Option<usize>| size.map_or(1, |size| inputs.div_ceil(size)) == groups;
    let size = sizes.chain(std::iter::once(None)).find(fits).ok_or_else(|| {
        misshapen(scales, &format!("{inputs} inputs in groups of {} do not make as many groups", settings.group_size))
    })?;
    let (group_size, whole_rows) = (size.unwrap_or(inputs), size.is_none());
    Ok(Shape { bits, inputs, outputs, groups, group_size, whole_rows, scales_of_output: None })
}

/// The bits with which the zero points have the shape that they have.
fn bits(settings: &Settings, tensors: &Tensors<'_>, outputs: usize, groups: usize) -> Result<u32> {
    let Some(zeros) = tensors.zeros else { return Ok(settings.bits) };
    let (zero_rows, zero_columns) = matrix(zeros)?;
    if zero_rows != groups {
        return Err(misshapen(zeros, &format!("{} has {groups} rows", tensors.scales.name)));
    }
    let fits = |bits: &u32| zero_columns == packed_len(outputs, *bits);
    settings.possible_bits().find(fits).ok_or_else(|| {
        let bits: Vec<_> = BITS.iter().filter(|bits| fits(bits)).map(ToString::to_string).collect();
        let what = match bits.first() {
            Some(bits) => format!("it is of {bits} bits, and {} says {}", settings.file, settings.bits),
            None => {
                format!("with {} bits {outputs} columns take {}", settings.bits, packed_len(outputs, settings.bits))
            }
        };
        misshapen(zeros, &what)
    })
}

/// Words that so many codes take.
fn packed_len(codes: usize, bits: u32) -> usize {
    codes.saturating_mul(bits as usize).div_ceil(32)
}

/// The words of a group's zero points, by index.
pub(super) fn zero_words(linear: &Linear, zeros: &[u8], group: usize) -> impl Fn(usize) -> u32 {
    let words = packed_len(linear.shape.outputs, linear.shape.bits);
    move |index| word(zeros, group * words + index)
}

/// Fills `out` with the codes of rows, one for each output of the range: runs of 32 inputs, for all rows one after the
/// other, because the words of neighbouring rows lie beside each other.
pub(super) fn codes(version: Version, linear: &Linear, packed: &[u8], rows: &Range<usize>, out: &mut [u8]) {
    let planar = version == Version::Planar;
    let run = |words: &[u32]| match (linear.shape.bits, planar) {
        (2, _) => stream::<2>(words),
        (3, false) => stream::<3>(words),
        (4, _) => stream::<4>(words),
        (5, false) => stream::<5>(words),
        (6, false) => stream::<6>(words),
        (7, false) => stream::<7>(words),
        (3 | 5..=7, true) => planes(words),
        _ => stream::<8>(words),
    };
    let (inputs, outputs, bits) = (linear.shape.inputs, linear.shape.outputs, linear.shape.bits as usize);
    let mut words = [0; 8];
    let words = &mut words[..bits.min(8)];
    for (at, first) in (0..inputs).step_by(RUN).enumerate() {
        let count = RUN.min(inputs - first);
        for (column, out) in rows.clone().zip(out.chunks_exact_mut(inputs)) {
            // The last run may have fewer words.
            for (place, found) in words.iter_mut().enumerate() {
                *found = word(packed, (at * bits + place) * outputs + column);
            }
            out[first..first + count].copy_from_slice(&run(words)[..count]);
        }
    }
}
