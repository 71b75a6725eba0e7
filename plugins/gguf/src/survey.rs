//! What each type loses of a tensor: the relative error of its output, or of its weights where nothing is known of its
//! inputs, measured on some of its rows.
//!
//! It knows one unit's tensors at a time, and which types are possible; what is made of the losses is
//! [`crate::mixture`]'s.

use std::{collections::BTreeMap, sync::Arc};

use qhost_ggml::BlockType;
use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Chunk, Failure, Result, RowJob, UnitHandle, chunks, with_scratch};

use crate::{arrange::in_memory, importance::Gathered, mixture::MIXED, rows::Source};

/// Losses of tensors, by type.
pub(crate) type Losses = qhost_budget::Losses<String>;

/// Chunks of a tensor that are looked at, spread over all of it.
const CHUNKS: usize = 8;

/// The loss of what a type cannot hold.
const WORST: f64 = 1e9;

/// A tensor that is measured.
pub(crate) struct Measured<'a> {
    pub(crate) name: &'a str,
    pub(crate) source: &'a Source,
    /// Of every matrix the importances of its columns; none if they are not known.
    pub(crate) columns: &'a [Arc<Gathered>],
    pub(crate) types: &'a [BlockType],
}

/// The memory of one thread for a tensor: a chunk of its weights, twice where they come in another order, what they become,
/// and its bytes.
pub(crate) fn memory_per_thread(source: &Source) -> u64 {
    let chunk = (source.granule() * source.row_elements).max(CHUNK_WEIGHTS);
    chunk.min(source.rows * source.row_elements).saturating_mul(4 + 4 + 4 + 4)
}

/// What measuring costs for each weight of a tensor, in nanoseconds: of some of them every type is tried.
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(crate) fn cost(weights: u64, weighed: bool) -> f64 {
    let share = (CHUNKS as f64 * CHUNK_WEIGHTS as f64 / weights.max(1) as f64).min(1.0);
    let of = |block_type: BlockType| if weighed { block_type.weighted_cost() } else { block_type.cost() };
    share * MIXED.into_iter().map(of).sum::<f64>()
}

/// Measures the tensors of a unit, and keeps the losses.
pub(crate) fn survey_unit(io: &UnitHandle, unit: u32, tensors: &[Measured<'_>]) -> Result<()> {
    let jobs: Vec<_> = tensors
        .iter()
        .map(|tensor| RowJob {
            item: tensor,
            rows: tensor.source.rows,
            row_elements: tensor.source.row_elements,
            granule: tensor.source.granule(),
        })
        .collect();
    let sampled: Vec<_> = jobs
        .iter()
        .flat_map(|job| {
            let all = chunks(std::slice::from_ref(job));
            let step = all.len().div_ceil(CHUNKS).max(1);
            all.into_iter().step_by(step)
        })
        .collect();
    let sums = io.host().parallel_map(sampled.len(), |index| measure(io, &sampled[index]))?;
    // Added up in the order of the chunks, so that figures do not depend on the threads.
    let mut totals: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for (chunk, sums) in sampled.iter().zip(sums) {
        let total = totals.entry(chunk.item.name).or_insert_with(|| vec![(0.0, 0.0); sums.len()]);
        total.iter_mut().zip(sums).for_each(|(total, sums)| *total = (total.0 + sums.0, total.1 + sums.1));
    }
    let mut losses = Losses::new();
    for tensor in tensors {
        let Some(total) = totals.get(tensor.name) else { continue };
        let of_types = tensor.types.iter().zip(total).map(|(block_type, (errors, squares))| {
            let loss = if *squares > 0.0 { errors / squares } else { 0.0 };
            (block_type.name().to_owned(), if loss.is_finite() { loss.min(WORST) } else { WORST })
        });
        losses.insert(tensor.name.to_owned(), of_types.collect());
        io.progress(tensor.source.rows * tensor.source.row_elements);
    }
    if losses.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string(&losses).map_err(|error| Failure::internal(error.to_string()))?;
    io.save(&format!("losses-{unit}"), text.as_bytes())
}

/// Of every type the sums of squared errors and of squares, each weighed by its column.
fn measure(io: &UnitHandle, chunk: &Chunk<'_, &Measured<'_>>) -> Result<Vec<(f64, f64)>> {
    let Measured { source, columns, types, .. } = chunk.item;
    let width = source.row_elements;
    with_scratch(|scratch| {
        source.origin.fetch(io, &chunk.rows, (source.rows, width), scratch)?;
        let mut sums = Vec::new();
        for &block_type in *types {
            let row_bytes = in_memory(block_type.row_bytes(width).unwrap_or(0))?;
            let candidate = Source { block_type, ..(*source).clone() };
            scratch.bytes.resize(in_memory(chunk.rows.end - chunk.rows.start)? * row_bytes, 0);
            candidate.quantize(columns, &chunk.rows, &scratch.floats, &mut scratch.bytes)?;
            if block_type.first_invalid_block(&scratch.bytes).is_some() {
                sums.push((f64::INFINITY, 1.0));
                continue;
            }
            scratch.more_floats.resize(scratch.floats.len(), 0.0);
            block_type.dequantize(&scratch.bytes, &mut scratch.more_floats);
            let mut sum = (0.0, 0.0);
            let rows = scratch.floats.chunks(in_memory(width)?.max(1));
            for ((row, weights), made) in
                chunk.rows.clone().zip(rows).zip(scratch.more_floats.chunks(in_memory(width)?.max(1)))
            {
                let each = (source.rows / (columns.len() as u64).max(1)).max(1);
                let importances = columns.get(in_memory(row / each)?).map(|gathered| gathered.columns.as_slice());
                let (errors, squares) = of_row(weights, made, importances);
                sum = (sum.0 + errors, sum.1 + squares);
            }
            sums.push(sum);
        }
        Ok(sums)
    })
}

fn of_row(weights: &[f32], made: &[f32], importances: Option<&[f32]>) -> (f64, f64) {
    let pairs = weights.iter().zip(made);
    let each = |(weight, made): (&f32, &f32)| {
        let (weight, error) = (f64::from(*weight), f64::from(*weight) - f64::from(*made));
        (error * error, weight * weight)
    };
    let add = |(errors, squares): (f64, f64), (error, square): (f64, f64)| (errors + error, squares + square);
    match importances {
        None => pairs.map(each).fold((0.0, 0.0), add),
        Some(importances) => {
            let weighed = pairs.map(each).zip(importances).map(|((error, square), importance)| {
                let importance = f64::from(*importance);
                (error * importance, square * importance)
            });
            weighed.fold((0.0, 0.0), add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_weighed_by_their_columns() {
        let (weights, made) = ([1.0, 2.0, -3.0], [1.5, 2.0, -1.0]);
        assert_eq!(of_row(&weights, &made, None), (4.25, 14.0));
        assert_eq!(of_row(&weights, &made, Some(&[4.0, 1.0, 0.0])), (1.0, 8.0));
    }
}
