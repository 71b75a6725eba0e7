//! The weights of a module as a matrix `[outputs][inputs]` of floats, however the checkpoint has them.

use std::sync::{Mutex, PoisonError};

use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle, with_scratch};

use crate::Module;

/// Fills `out` with the weights of a module, output by output.
///
/// # Errors
/// Fails when `out` has another size than the module, or the weights cannot be read.
pub fn fetch(io: &UnitHandle, module: &Module, out: &mut [f32]) -> Result<()> {
    let columns = in_memory(module.columns)?;
    if columns == 0 || out.len() != in_memory(module.weights())? {
        return Err(Failure::internal("a buffer of another size than the module"));
    }
    if module.transposed { fetch_transposed(io, module, out) } else { fetch_rows(io, module, out, columns) }
}

/// A row of the source is an output.
fn fetch_rows(io: &UnitHandle, module: &Module, out: &mut [f32], columns: usize) -> Result<()> {
    let rows = in_memory(CHUNK_WEIGHTS)?.div_ceil(columns);
    let parts: Vec<_> = out.chunks_mut(rows * columns).map(Mutex::new).collect();
    let outputs = module.outputs;
    let start = u64::from(module.expert.unwrap_or(0)) * outputs.of;
    io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let count = (part.len() / columns) as u64;
        let first = start + outputs.first + (index * rows) as u64 * outputs.step;
        let lent = io.rows(module.tensor, first, (count - 1) * outputs.step + 1)?;
        with_scratch(|scratch| {
            lent.widen(&mut scratch.floats)?;
            let rows = scratch.floats.chunks_exact(columns).step_by(in_memory(outputs.step)?);
            for (out, row) in part.chunks_exact_mut(columns).zip(rows) {
                out.copy_from_slice(row);
            }
            Ok(())
        })
    })?;
    Ok(())
}

/// A row of the source is an input; a task takes some outputs of all inputs, so that the source is read in pieces of
/// rows and written in pieces of rows.
fn fetch_transposed(io: &UnitHandle, module: &Module, out: &mut [f32]) -> Result<()> {
    let (columns, outputs) = (in_memory(module.columns)?, module.outputs);
    let of_row = in_memory(outputs.of)?;
    let at_once = (in_memory(CHUNK_WEIGHTS)? / of_row.max(1)).clamp(1, columns);
    let start = u64::from(module.expert.unwrap_or(0)) * module.columns;
    let (first, step) = (in_memory(outputs.first)?, in_memory(outputs.step)?);
    // The destination is cut by outputs, the source by inputs: pieces are gathered in order.
    for block in (0..columns).step_by(at_once) {
        let count = at_once.min(columns - block);
        let lent = io.rows(module.tensor, start + block as u64, count as u64)?;
        with_scratch(|scratch| {
            lent.widen(&mut scratch.floats)?;
            let source = &scratch.floats;
            let rows = in_memory(CHUNK_WEIGHTS)?.div_ceil(count);
            let parts: Vec<_> = out.chunks_mut(rows * columns).map(Mutex::new).collect();
            io.host().parallel_map(parts.len(), |index| {
                let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
                for (row, out) in part.chunks_exact_mut(columns).enumerate() {
                    let column = first + (index * rows + row) * step;
                    for (input, weight) in out[block..block + count].iter_mut().enumerate() {
                        *weight = source[input * of_row + column];
                    }
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// A size of something that is in memory.
///
/// # Errors
/// Fails where memory has no such sizes.
pub fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Failure::internal(format!("{size} of something do not fit into memory")))
}
