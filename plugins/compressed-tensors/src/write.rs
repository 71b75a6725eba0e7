//! A rounded module into its segments.

use qhost_linears::{Module, in_memory};
use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle};
use qhost_rounding::{Groups, Rounded};

use crate::pack::{
    CODES, LENGTHS, SCALES, order_part, pack_codes, pack_lengths, pack_order, pack_scales, pack_zeros, words,
    zeros_part,
};

/// Packs a module and writes its segments: codes by rows, the others at once.
pub(crate) fn write_module(io: &UnitHandle, module: &Module, rounded: &Rounded, groups: Groups<'_>) -> Result<()> {
    let (rows, columns, count) = (in_memory(module.rows)?, in_memory(module.columns)?, in_memory(module.groups())?);
    let bits = module.settings.bits;
    let about = |failure: Failure| failure.about(&*module.name);
    let sizes = (rounded.codes.len(), rounded.scales.len(), rounded.zeros.len());
    if sizes != (rows * columns, rows * count, rows * count) {
        return Err(about(Failure::internal("a rounded module of another size than planned")));
    }
    // Only what is taken over may have groups of nothing.
    let is_wrong = |scale: f32| !scale.is_finite() || module.taken.is_none() && scale == 0.0;
    if let Some(scale) = rounded.scales.iter().find(|scale| is_wrong(scale.to_f32())) {
        return Err(about(Failure::internal(format!("a scale is {scale}"))));
    }
    let at_once = (in_memory(CHUNK_WEIGHTS)? / columns.max(1)).max(1) * columns;
    let parts: Vec<_> = rounded.codes.chunks(at_once.max(1)).collect();
    let part_bytes = (at_once / columns.max(1)) as u64 * words(module.columns, bits) * 4;
    io.host().parallel_map(parts.len(), |index| {
        let packed = pack_codes(parts[index], columns, bits);
        io.write(module.first_segment + CODES, index as u64 * part_bytes, &packed)
    })?;
    io.write(module.first_segment + SCALES, 0, &pack_scales(&rounded.scales))?;
    io.write(module.first_segment + LENGTHS, 0, &pack_lengths(module))?;
    if let Some(part) = zeros_part(module) {
        io.write(module.first_segment + part, 0, &pack_zeros(&rounded.zeros, count, bits))?;
    } else if rounded.zeros.iter().any(|zero| *zero != 1 << (bits - 1)) {
        return Err(about(Failure::internal("a symmetric module with zero-points of its own")));
    }
    if let Some(part) = order_part(module) {
        let group_of = |column| u32::try_from(groups.of(column)).unwrap_or(u32::MAX);
        io.write(module.first_segment + part, 0, &pack_order((0..columns).map(group_of)))?;
    } else if (0..columns).any(|column| groups.of(column) as u64 != column as u64 / module.group_size().max(1)) {
        return Err(about(Failure::internal("groups in an order that is not stored")));
    }
    Ok(())
}

/// Memory that packing takes beside the codes, for all threads.
pub(crate) fn memory(module: &Module) -> u64 {
    words(module.columns, module.settings.bits) * 4 * module.rows + module.rows * module.groups() * 3
}
