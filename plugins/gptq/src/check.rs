//! A finished folder, looked at as a loader would: headers, index, zero-points and scales.

use qhost_folder::{Layout, Tensor, check_headers, read_segment};
use qhost_plugin_api::{
    documents::{Check, Findings},
    sdk::{FilesHandle, HostHandle, Result},
};
use qhost_rounding::f16;

use crate::{modules::Module, options::CheckpointFormat, pack::unpack};

/// The first tensor of a module in the layout, and the module.
pub(crate) type Placed<'a> = (usize, &'a Module);

/// Looks at everything.
pub(crate) fn check(
    files: &FilesHandle,
    layout: &Layout,
    tensors: &[Tensor],
    modules: &[Placed<'_>],
    format: CheckpointFormat,
    host: &HostHandle,
) -> Result<Findings> {
    let structure = check_headers(files, layout, tensors)?;
    let bad = host.parallel_map(modules.len(), |index| {
        let (first, module) = modules[index];
        let zeros = read_segment(files, layout, first + ZEROS)?;
        let scales = read_segment(files, layout, first + SCALES)?;
        Ok(wrong(module, &zeros, &scales, format).map(|wrong| format!("{}: {wrong}", module.name)))
    })?;
    let numbers = match bad.into_iter().flatten().next() {
        Some(bad) => Check::failed("numbers", bad),
        None => Check::passed("numbers", format!("scales and zero-points of {} modules", modules.len())),
    };
    Ok(Findings::new(vec![structure, numbers]))
}

/// Where a module's tensors are, from the first.
pub(crate) const ZEROS: usize = 1;
/// The scales after the zero-points.
pub(crate) const SCALES: usize = 2;

/// What is wrong with the numbers of a module.
fn wrong(module: &Module, zeros: &[u8], scales: &[u8], format: CheckpointFormat) -> Option<String> {
    let largest = module.settings.largest_code();
    let stored = |zero: u8| match format {
        CheckpointFormat::V1 => zero - 1,
        CheckpointFormat::V2 => zero,
    };
    let allowed = if module.settings.symmetric {
        let middle = stored(largest / 2 + 1);
        middle..=middle
    } else {
        stored(1)..=stored(largest)
    };
    if let Some(zero) = unpack(zeros, module.settings.bits).find(|zero| !allowed.contains(zero)) {
        return Some(format!("a zero-point is stored as {zero}"));
    }
    let scales = scales.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
    let bad = scales.into_iter().find(|scale| !scale.is_finite() || *scale == f16::ZERO || *scale == f16::NEG_ZERO);
    bad.map(|scale| format!("a scale is {scale}"))
}
