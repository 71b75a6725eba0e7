//! One packed linear: what follows from the shapes of its tensors, and its rows as floats.
//!
//! Bits and groups follow from shapes as far as they can, because the config's rules for single linears are patterns
//! that every program reads a little differently; the config only has to agree.

use std::ops::Range;

use qhost_packed::{Linear, Packed, Packing, Shape, Tensors, in_memory, matrix, misshapen, word};
use qhost_plugin_api::sdk::Result;

use super::{
    settings::{BITS, Settings},
    unpack::{RUN, codes},
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
        None => rows * 32 / bits as usize,
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
    Ok(Shape { bits, inputs, outputs, groups, group_size, whole_rows })
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

/// Fills `out` with rows of the weight, one for each output of the range.
///
/// # Errors
/// Fails with kind `CORRUPT` when an input is in a group that is not there.
pub(super) fn fill(
    settings: &Settings,
    linear: &Linear,
    packed: &Packed<'_>,
    rows: &Range<usize>,
    out: &mut [f32],
) -> Result<()> {
    let groups = linear.groups_of_inputs(packed.order)?;
    let block = Block::of(settings, linear, packed, rows, &groups)?;
    match linear.shape.bits {
        2 => block.fill::<2>(packed.codes, out),
        3 => block.fill::<3>(packed.codes, out),
        4 => block.fill::<4>(packed.codes, out),
        _ => block.fill::<8>(packed.codes, out),
    }
    Ok(())
}

/// Some outputs of a linear, with their scales and zero points at hand.
struct Block<'a> {
    inputs: usize,
    /// All outputs of the linear.
    outputs: usize,
    rows: Range<usize>,
    groups: &'a [u32],
    /// By group, for every row.
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl<'a> Block<'a> {
    fn of(
        settings: &Settings,
        linear: &Linear,
        packed: &Packed<'_>,
        rows: &Range<usize>,
        groups: &'a [u32],
    ) -> Result<Self> {
        let mut scales = vec![0.0; linear.shape.groups * rows.len()];
        let mut zeros = scales.clone();
        for group in 0..linear.shape.groups {
            let place = group * rows.len()..(group + 1) * rows.len();
            linear.scales(packed, group, rows, &mut scales[place.clone()])?;
            settings.zeros(linear, packed, group, rows.start, &mut zeros[place]);
        }
        let (inputs, outputs) = (linear.shape.inputs, linear.shape.outputs);
        Ok(Self { inputs, outputs, rows: rows.clone(), groups, scales, zeros })
    }

    /// Runs of 32 inputs, for all rows one after the other: the words of neighbouring rows lie beside each other.
    fn fill<const BITS: usize>(&self, packed: &[u8], out: &mut [f32]) {
        let rows = self.rows.len();
        for (run, groups) in self.groups.chunks(RUN).enumerate() {
            let first = groups[0] as usize;
            let in_one = groups.iter().all(|group| *group as usize == first);
            for row in 0..rows {
                let column = self.rows.start + row;
                // The last run may have fewer words.
                let words = std::array::from_fn(|at| word(packed, (run * BITS + at) * self.outputs + column));
                let codes = codes::<BITS>(&words);
                let place = &mut out[row * self.inputs + run * RUN..][..groups.len()];
                if in_one {
                    let (scale, zero) = (self.scales[first * rows + row], self.zeros[first * rows + row]);
                    for (weight, code) in place.iter_mut().zip(codes) {
                        *weight = scale * (f32::from(code) - zero);
                    }
                } else {
                    for ((weight, code), group) in place.iter_mut().zip(codes).zip(groups) {
                        let at = *group as usize * rows + row;
                        *weight = self.scales[at] * (f32::from(code) - self.zeros[at]);
                    }
                }
            }
        }
    }
}
