//! One packed linear: what follows from the shapes of its tensors, and its rows as floats.
//!
//! Codes lie with the inputs as rows, and eight outputs beside each other in a word.

use std::ops::Range;

use qhost_packed::{Linear, Packed, Packing, Shape, Tensors, matrix, misshapen, word};
use qhost_plugin_api::sdk::{Failure, Result};

use super::{
    settings::{BITS, Settings},
    unpack::{OUTPUTS, SHIFTS, field},
};

/// Inputs that are taken apart together.
const RUN: usize = 32;

/// What the shapes of a linear's tensors say, held against the settings.
///
/// # Errors
/// Fails with kind `CORRUPT`, naming the tensor, when one has an impossible shape, and with `UNSUPPORTED` when inputs
/// have an order of their own, which the format does not know.
pub(super) fn shape(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    let (codes, scales) = (tensors.codes, tensors.scales);
    if let Some(order) = tensors.order {
        return Err(Failure::unsupported("the format has no order of inputs, and it is one").about(&*order.name));
    }
    let (inputs, columns) = matrix(codes)?;
    let (groups, outputs) = matrix(scales)?;
    if columns.checked_mul(OUTPUTS) != Some(outputs) {
        return Err(misshapen(
            codes,
            &format!("{} has {outputs} columns, which take {}", scales.name, outputs / OUTPUTS),
        ));
    }
    if let Some(zeros) = tensors.zeros.filter(|zeros| zeros.shape != [groups as u64, columns as u64]) {
        return Err(misshapen(
            zeros,
            &format!("{} has {groups} rows, and {} {columns} columns", scales.name, codes.name),
        ));
    }
    let sizes = settings.group_sizes().map(|size| usize::try_from(size).ok().filter(|size| *size <= inputs));
    let fits = |size: &Option<usize>| groups.checked_mul(size.unwrap_or(inputs)) == Some(inputs);
    let size = sizes.into_iter().find(fits).ok_or_else(|| {
        misshapen(scales, &format!("{inputs} inputs in groups of {} do not make as many groups", settings.group_size))
    })?;
    let (group_size, whole_rows) = (size.unwrap_or(inputs), size.is_none());
    Ok(Shape { bits: BITS, inputs, outputs, groups, group_size, whole_rows })
}

/// The zero points of outputs from `first` on, of one group.
pub(super) fn zeros(linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]) {
    let Some(zeros) = packed.zeros else {
        out.fill(MIDDLE);
        return;
    };
    let columns = linear.shape.outputs / OUTPUTS;
    for (zero, output) in out.iter_mut().zip(first..) {
        *zero = f32::from(field(word(zeros, group * columns + output / OUTPUTS), output));
    }
}

/// The zero point where none is stored.
pub(super) const MIDDLE: f32 = 8.0;

/// Fills `out` with rows of the weight, one for each output of the range: runs of inputs within a group, for all rows
/// one after the other, since the words of neighbouring rows lie beside each other.
pub(super) fn fill(
    settings: &Settings,
    linear: &Linear,
    packed: &Packed<'_>,
    rows: &Range<usize>,
    out: &mut [f32],
) -> Result<()> {
    let Shape { inputs, outputs, group_size, .. } = linear.shape;
    let columns = outputs / OUTPUTS;
    let (mut scales, mut zeros) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    let mut words = [0; RUN];
    for group in 0..linear.shape.groups {
        linear.scales(packed, group, rows, &mut scales)?;
        settings.zeros(linear, packed, group, rows.start, &mut zeros);
        let end = (group + 1) * group_size;
        for start in (group * group_size..end).step_by(RUN) {
            let words = &mut words[..RUN.min(end - start)];
            let mut column = None;
            for (at, row) in rows.clone().enumerate() {
                if column.replace(row / OUTPUTS) != Some(row / OUTPUTS) {
                    for (found, input) in words.iter_mut().zip(start..) {
                        *found = word(packed.codes, input * columns + row / OUTPUTS);
                    }
                }
                let (shift, scale, zero) = (SHIFTS[row % OUTPUTS], scales[at], zeros[at]);
                for (weight, word) in out[at * inputs + start..].iter_mut().zip(&*words) {
                    #[expect(clippy::cast_precision_loss, reason = "4 bits")]
                    let code = (word >> shift & 15) as f32;
                    *weight = scale * (code - zero);
                }
            }
        }
    }
    Ok(())
}
