//! A rounded module into its segments.

use std::sync::{Mutex, PoisonError};

use qhost_linears::{Module, in_memory};
use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle};
use qhost_rounding::{Groups, Rounded};

use crate::{
    options::CheckpointFormat,
    pack::{CODES, GROUPS, SCALES, ZEROS, pack_codes, pack_groups, pack_scales, pack_zeros, period},
};

/// Packs a module and writes its four segments, each at once.
pub(crate) fn write_module(
    io: &UnitHandle,
    module: &Module,
    rounded: &Rounded,
    groups: Groups<'_>,
    format: CheckpointFormat,
) -> Result<()> {
    let (rows, columns) = (in_memory(module.rows)?, in_memory(module.columns)?);
    let (bits, count) = (module.settings.bits, groups.count(columns));
    let sizes = (rounded.codes.len(), rounded.scales.len(), rounded.zeros.len());
    // A group of an order of its own may be without inputs.
    let count = if module.taken.is_some() { in_memory(module.groups())? } else { count };
    if sizes != (rows * columns, rows * count, rows * count) || count != in_memory(module.groups())? {
        return Err(Failure::internal("a rounded module of another size than planned").about(&*module.name));
    }
    let about = |failure: Failure| failure.about(&*module.name);
    if let Some(scale) =
        rounded.scales.iter().find(|scale| !scale.is_finite() || module.taken.is_none() && scale.to_f32() == 0.0)
    {
        return Err(about(Failure::internal(format!("a scale is {scale}"))));
    }
    let (of_period, words) = period(bits);
    // Periods of inputs are rows of the packed matrix: a task packs some of them, for all outputs.
    let at_once = (in_memory(CHUNK_WEIGHTS)? / (of_period * rows).max(1)).max(1);
    let mut packed = vec![0; columns / of_period * words * rows * 4];
    let parts: Vec<_> = packed.chunks_mut(at_once * words * rows * 4).map(Mutex::new).collect();
    io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let first = index * at_once;
        let periods = first..first + part.len() / (words * rows * 4).max(1);
        pack_codes(&rounded.codes, columns, bits, periods, &mut part);
        Ok(())
    })?;
    drop(parts);
    io.write(module.first_segment + CODES, 0, &packed)?;
    drop(packed);
    io.write(module.first_segment + ZEROS, 0, &pack_zeros(&rounded.zeros, count, bits, format).map_err(about)?)?;
    io.write(module.first_segment + SCALES, 0, &pack_scales(&rounded.scales, count))?;
    let group_of = |column| u32::try_from(groups.of(column)).unwrap_or(u32::MAX);
    io.write(module.first_segment + GROUPS, 0, &pack_groups((0..columns).map(group_of)))
}

/// Memory that packing takes beside the codes, for all threads.
pub(crate) fn memory(module: &Module) -> u64 {
    module.weights() * u64::from(module.settings.bits) / 8 + module.rows * module.groups() * 3
}
