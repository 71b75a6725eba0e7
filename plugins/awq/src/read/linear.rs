//! One packed linear: what follows from the shapes of its tensors.

use qhost_packed::{Linear, Packed, Shape, Tensors, matrix, misshapen};
use qhost_plugin_api::sdk::{DType, Failure, Result, widen};

use super::{
    layout::{Layout, OF_ROW, OF_WORD, TILE, padded_words, zero},
    settings::{BITS, Settings},
    unpack::OUTPUTS,
};

/// Bits that some program packs in ways of its own.
const OTHER_BITS: [usize; 6] = [2, 3, 5, 6, 7, 8];

/// What the shapes of a linear's tensors say, held against the settings.
///
/// # Errors
/// Fails with kind `CORRUPT`, naming the tensor, when one has an impossible shape, and with `UNSUPPORTED` when inputs
/// have an order of their own, which the format does not know, or codes have other bits.
pub(super) fn shape(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    if let Some(order) = tensors.order {
        return Err(Failure::unsupported("the format has no order of inputs, and it is one").about(&*order.name));
    }
    match settings.layout {
        Layout::Gemm => by_input(settings, tensors),
        Layout::Gemv | Layout::Fast => by_output(settings, tensors),
    }
}

/// Codes lie with the inputs as rows.
fn by_input(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    let (codes, scales) = (tensors.codes, tensors.scales);
    let (inputs, columns) = matrix(codes)?;
    let (groups, outputs) = matrix(scales)?;
    if columns.checked_mul(OUTPUTS) != Some(outputs) {
        let is_of = |bits: &&usize| outputs.checked_mul(**bits).map(|all| all.div_ceil(32)) == Some(columns);
        if let Some(bits) = OTHER_BITS.iter().find(is_of).filter(|_| settings.may_be_mixed) {
            return Err(Failure::unsupported(format!("its codes have {bits} bits")).about(&*codes.name));
        }
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
    let fits = |size: usize| groups.checked_mul(size) == Some(inputs);
    let (group_size, whole_rows) = settings.group_of(inputs, fits).ok_or_else(|| {
        misshapen(scales, &format!("{inputs} inputs in groups of {} do not make as many groups", settings.group_size))
    })?;
    Ok(Shape { bits: BITS, inputs, outputs, groups, group_size, whole_rows, scales_of_output: None })
}

/// Codes lie with the outputs as rows; what belongs to groups is filled up.
fn by_output(settings: &Settings, tensors: &Tensors<'_>) -> Result<Shape> {
    let (codes, scales) = (tensors.codes, tensors.scales);
    let (rows, columns) = matrix(codes)?;
    let fast = settings.layout == Layout::Fast;
    let lengths =
        if fast { (rows.checked_mul(OF_ROW), Some(columns)) } else { (Some(rows), columns.checked_mul(OF_WORD)) };
    let (Some(outputs), Some(inputs)) = lengths else { return Err(misshapen(codes, "it is longer than memory")) };
    if inputs == 0 || fast && !inputs.is_multiple_of(TILE) {
        return Err(misshapen(codes, &format!("inputs are packed in tiles of {TILE}")));
    }
    let (scale_rows, scale_columns) = matrix(scales)?;
    let (of_scales, padded) = if fast { (scale_columns, scale_rows) } else { (scale_rows, scale_columns) };
    if of_scales != outputs {
        return Err(misshapen(scales, &format!("{} has {outputs} outputs", codes.name)));
    }
    let fits = |size: usize| inputs.is_multiple_of(size) && padded_words(inputs / size, size) * OF_WORD == padded;
    let (group_size, whole_rows) = settings.group_of(inputs, fits).ok_or_else(|| {
        misshapen(scales, &format!("{inputs} inputs in groups of {} take other room", settings.group_size))
    })?;
    if let Some(zeros) = tensors.zeros {
        let expected = if fast { scales.shape.clone() } else { vec![outputs as u64, (padded / OF_WORD) as u64] };
        if zeros.shape != expected {
            return Err(misshapen(zeros, &format!("{} makes it {expected:?}", scales.name)));
        }
    }
    let scales_of_output = (!fast).then_some(padded);
    Ok(Shape { bits: BITS, inputs, outputs, groups: inputs / group_size, group_size, whole_rows, scales_of_output })
}

/// The zero points, or the minima, of outputs from `first` on, of one group.
pub(super) fn zeros(layout: Layout, linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]) {
    let outputs = linear.shape.outputs;
    match (packed.zeros, layout) {
        (None, _) => out.fill(MIDDLE),
        (Some(zeros), Layout::Fast) => {
            let bytes = zeros.get((group * outputs + first) * 2..).unwrap_or_default();
            if widen(DType::F16, bytes.get(..out.len() * 2).unwrap_or_default(), out).is_err() {
                out.fill(f32::NAN);
            }
        }
        (Some(zeros), _) => {
            let words = linear.shape.scales_of_output.unwrap_or(0) / OF_WORD;
            for (found, output) in out.iter_mut().zip(first..) {
                *found = f32::from(zero(layout, zeros, (outputs, words), output, group));
            }
        }
    }
}

/// The zero point where none is stored.
pub(super) const MIDDLE: f32 = 8.0;
