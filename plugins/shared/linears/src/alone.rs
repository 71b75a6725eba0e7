//! Modules that are rounded without looking at their inputs: group by group, each under the scale that loses least of its
//! weights.

use std::sync::{Mutex, PoisonError};

use qhost_plugin_api::{
    documents::{Model, PlannedUnit},
    sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle},
};
use qhost_rounding::{Rounded, f16, round_groups};

use crate::{Contents, Effort, Module, grid, in_memory, metric, share, taken};

/// Rounds a module that is in memory, output by output, and tells the report what was lost of its weights.
///
/// Groups are neighbours, and so are those of the codes.
///
/// # Errors
/// Fails when the weights are not those of the module, and when the user wants to stop.
pub fn round_alone(io: &UnitHandle, module: &Module, effort: Effort, weights: &[f32]) -> Result<Rounded> {
    let (columns, size) = (in_memory(module.columns)?, in_memory(module.group_size())?);
    if weights.len() != in_memory(module.weights())? || size == 0 || !columns.is_multiple_of(size) {
        return Err(Failure::internal("weights of another size than the module").about(&*module.name));
    }
    let (grid, candidates) = (grid(module)?, effort.search().candidates);
    let groups = weights.len() / size;
    let mut rounded =
        Rounded { codes: vec![0; weights.len()], scales: vec![f16::ZERO; groups], zeros: vec![0; groups] };
    // Groups of one row after those of the other.
    let at_once = in_memory(CHUNK_WEIGHTS)?.div_ceil(size);
    let parts: Vec<_> = rounded
        .codes
        .chunks_mut(at_once * size)
        .zip(rounded.scales.chunks_mut(at_once).zip(rounded.zeros.chunks_mut(at_once)))
        .map(Mutex::new)
        .collect();
    let losses = io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (codes, (scales, zeros)) = &mut *part;
        let tile = round_groups(grid, candidates, size, &weights[index * at_once * size..][..codes.len()]);
        codes.copy_from_slice(&tile.codes);
        scales.copy_from_slice(&tile.scales);
        zeros.copy_from_slice(&tile.zeros);
        io.progress(codes.len() as u64);
        Ok((tile.loss, tile.energy))
    })?;
    drop(parts);
    // In the order of the parts, so that the figure does not depend on the threads.
    let (loss, energy) = losses.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    io.metric(module.first_segment, metric::RELATIVE_ERROR, share(loss, energy).sqrt());
    Ok(rounded)
}

/// The units of a model with what each needs whose modules are rounded so; packing a module takes so much memory beside its
/// codes.
#[must_use]
pub fn units_alone(model: &Model, contents: &Contents, packing: fn(&Module) -> u64) -> Vec<PlannedUnit> {
    let units = model.units.iter().map(|unit| {
        let modules: Vec<_> = contents.modules().filter(|module| module.unit == unit.id).collect();
        let mut planned = PlannedUnit::new(unit.id);
        planned.memory = memory_alone(&modules, packing);
        // Lanes of a tile of groups, and what comes out of a chunk.
        let per_thread = |module: &&Module| match module.taken {
            Some(_) => taken::memory_per_thread(module),
            None => module.group_size() * 33 * 4 + CHUNK_WEIGHTS.max(module.columns) * 4,
        };
        planned.memory_per_thread = modules.iter().map(per_thread).max().unwrap_or(0);
        planned
    });
    units.collect()
}

/// Memory that a unit with these modules takes.
#[must_use]
pub fn memory_alone(modules: &[&Module], packing: fn(&Module) -> u64) -> u64 {
    let of_module = |module: &&Module| {
        let own = match module.taken {
            Some(_) => taken::memory(module),
            // Weights and codes, scales and zeros.
            None => module.weights() * 5 + module.rows * module.groups() * 3,
        };
        own + packing(module)
    };
    modules.iter().map(of_module).max().unwrap_or(0)
}
