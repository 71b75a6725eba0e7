//! What rounding the tensors of a unit takes of memory.

use qhost_linears::{Conditioning, Targets};
use qhost_plugin_api::documents::{InputGroup, Model};
use qhost_rounding::TILE;

use super::{matrix::BAND, substitutes::Substitutes};
use crate::rows::Source;

/// Memory that rounding these tensors takes, and what of it is asked for by whoever computes.
pub(crate) fn memory(model: &Model, sources: &[&Source], corrects: bool) -> (u64, u64) {
    if sources.is_empty() {
        return (0, 0);
    }
    let columns = sources.iter().map(|source| source.row_elements).max().unwrap_or(0);
    let hessian = Conditioning::of(columns);
    let rows_at_once = |source: &Source| {
        let rows = source.rows / source.matrices();
        let is_read = source.input.as_ref().is_some_and(|input| *input.group() != InputGroup::OutputIn);
        if is_read { rows } else { rows.min(BAND / source.row_elements.max(1) + TILE as u64) }
    };
    let weights = |source: &&Source| rows_at_once(source).saturating_mul(source.row_elements).saturating_mul(4);
    let largest = sources.iter().map(weights).max().unwrap_or(0);
    let corrected = sources.iter().filter(|source| corrects && source.input.is_some() && !source.embeds);
    let targets = Targets::of(corrected.map(|source| (rows_at_once(source), source.row_elements)));
    // Its metric is added up beside another of the same size.
    let embeds = sources.iter().filter(|source| source.embeds);
    let metric = embeds.map(|source| 16 * source.row_elements * source.row_elements + (4 << 20)).max().unwrap_or(0);
    let own = hessian.before.max(hessian.after + largest + targets.own);
    (own.saturating_add(Substitutes::memory(model, sources)), (hessian.arithmetic + targets.arithmetic).max(metric))
}

/// Memory that every thread takes beside that.
pub(crate) fn memory_per_thread(sources: &[&Source]) -> u64 {
    // Weights, values, errors, changes and directions of a tile in floats, its codes, and what they stand for.
    sources.iter().map(|source| source.row_elements * TILE as u64 * (6 * 4 + 2 + 4)).max().unwrap_or(0)
}
