//! A finished folder, looked at as a loader would: headers, index, and the numbers of every module.

use qhost_folder::{check_headers, read_segment};
use qhost_plugin_api::{
    documents::{Check, Findings},
    sdk::{FilesHandle, HostHandle, Result},
};
use qhost_rounding::f16;

use crate::{Module, Placement};

/// Looks at everything; `wrong` tells what is wrong with a module, given a way to read its parts by their places in the
/// format's order.
///
/// # Errors
/// Fails when the files cannot be read.
pub fn check(
    files: &FilesHandle,
    placement: &Placement,
    modules: &[&Module],
    host: &HostHandle,
    wrong: impl Fn(&Module, &dyn Fn(usize) -> Result<Vec<u8>>) -> Result<Option<String>> + Sync,
) -> Result<Findings> {
    let structure = check_headers(files, &placement.layout, &placement.tensors)?;
    let bad = host.parallel_map(modules.len(), |index| {
        let module = modules[index];
        let read = |part| read_segment(files, &placement.layout, placement.tensor_of(module, part));
        Ok(wrong(module, &read)?.map(|wrong| format!("{}: {wrong}", module.name)))
    })?;
    let numbers = match bad.into_iter().flatten().next() {
        Some(bad) => Check::failed("numbers", bad),
        None => Check::passed("numbers", format!("scales and zero-points of {} modules", modules.len())),
    };
    Ok(Findings::new(vec![structure, numbers]))
}

/// What is wrong with the 16-bit scales of a module, if anything. Only what is taken over may have groups of nothing.
#[must_use]
pub fn bad_scale(scales: &[u8], module: &Module) -> Option<String> {
    let scales = scales.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
    let nothing = |scale: f16| module.taken.is_none() && (scale == f16::ZERO || scale == f16::NEG_ZERO);
    let bad = scales.into_iter().find(|scale| !scale.is_finite() || nothing(*scale));
    bad.map(|scale| format!("a scale is {scale}"))
}
