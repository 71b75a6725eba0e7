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
    let is_read = |source: &Source| source.input.as_ref().is_some_and(|input| *input.group() != InputGroup::OutputIn);
    let weights = |source: &&&Source| {
        let of_matrix = (source.rows / source.matrices()).saturating_mul(source.row_elements);
        let at_once = if is_read(source) { of_matrix } else { of_matrix.min(BAND + TILE as u64 * source.row_elements) };
        at_once.saturating_mul(4)
    };
    let largest = sources.iter().map(|source| weights(&source)).max().unwrap_or(0);
    let corrected = sources.iter().filter(|source| corrects && is_read(source));
    let targets = Targets::of(corrected.map(|source| (source.rows / source.matrices(), source.row_elements)));
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
