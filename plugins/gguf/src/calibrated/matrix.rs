//! One matrix: fetched, rounded under the Hessian of its inputs, and written, some rows at a time.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use qhost_linears::{Difference, Sums};
use qhost_plugin_api::sdk::{
    CHUNK_WEIGHTS, Failure, Matrix as Factor, Result, UnitHandle, squared_errors, with_scratch,
};
use qhost_rounding::{Curvature, Effort, Scheme, TILE, round_blocks};

use super::pack::pack;
use crate::{
    arrange::in_memory,
    importance::Gathered,
    rows::{Source, too_large},
};

/// Weights that are in memory at once of a matrix that nothing in the model reads: the head can be very large.
pub(super) const BAND: u64 = 16 * 1024 * 1024;

/// A matrix of a tensor: all of it, or that of one expert.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) source: &'a Source,
    pub(super) segment: u32,
    /// Its name, for people.
    pub(super) name: &'a str,
    /// Its first row in the tensor.
    pub(super) first: u64,
    pub(super) rows: u64,
}

/// How a matrix is rounded.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// Under a Hessian.
    Compensated {
        curvature: &'a Curvature,
        /// What the original model's inputs have more, and the factor of the Hessian.
        difference: Option<(&'a Difference, &'a Factor)>,
        scheme: &'a Scheme,
        search: Effort,
    },
    /// Each weight for itself, weighed by the importances of columns.
    Weighed(&'a Gathered),
}

impl Matrix<'_> {
    /// The rows that are in memory at once, if not all have to be.
    pub(super) fn band(&self) -> u64 {
        let rows = (BAND / self.source.row_elements.max(1)).max(1).next_multiple_of(TILE as u64);
        rows.max(self.source.granule()).min(self.rows)
    }

    /// Makes the matrix, and leaves in `whole`, if it is there, the weights that its blocks stand for.
    pub(super) fn make(&self, io: &UnitHandle, how: How<'_>, whole: Option<&mut [f32]>) -> Result<Sums> {
        if let Some(whole) = whole {
            return self.make_rows(io, how, 0..self.rows, whole);
        }
        let band = self.band();
        let mut weights = vec![0.0; in_memory(band * self.source.row_elements)?];
        let mut sums = Vec::new();
        for start in (0..self.rows).step_by(in_memory(band)?) {
            let rows = start..self.rows.min(start + band);
            let weights = &mut weights[..in_memory((rows.end - rows.start) * self.source.row_elements)?];
            sums.push(self.make_rows(io, how, rows, weights)?);
        }
        Ok(Sums::of(&sums))
    }

    fn make_rows(&self, io: &UnitHandle, how: How<'_>, rows: Range<u64>, weights: &mut [f32]) -> Result<Sums> {
        self.fetch(io, &rows, weights)?;
        let mut originals = None;
        if let How::Compensated { curvature, difference, .. } = how
            && let Some((difference, factor)) = difference.filter(|_| !curvature.is_plain())
        {
            originals = Some(weights.to_vec());
            difference.correct(io, (curvature, factor), None, weights)?;
        }
        let tile = TILE * in_memory(self.source.row_elements)?;
        let parts: Vec<_> = weights.chunks_mut(tile).map(Mutex::new).collect();
        let sums = io.host().parallel_map(parts.len(), |index| {
            let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
            let first = self.first + rows.start + (index * TILE) as u64;
            let originals = originals.as_ref().map(|originals: &Vec<f32>| &originals[index * tile..]);
            self.make_tile(io, how, first, originals, &mut part)
        })?;
        Ok(Sums::of(&sums))
    }

    /// Rounds some rows, from one of the tensor on, writes them, and leaves in their place what they became.
    fn make_tile(
        &self,
        io: &UnitHandle,
        how: How<'_>,
        first: u64,
        originals: Option<&[f32]>,
        weights: &mut [f32],
    ) -> Result<Sums> {
        let (block_type, columns) = (self.source.block_type, self.source.row_elements);
        let row_bytes = block_type.row_bytes(columns).unwrap_or(0);
        let rows = (weights.len() as u64).checked_div(columns).unwrap_or(0);
        let mut sums = Sums::default();
        with_scratch(|scratch| {
            scratch.bytes.clear();
            scratch.bytes.resize(in_memory(rows * row_bytes)?, 0);
            match how {
                How::Compensated { curvature, scheme, search, .. } => {
                    let made = round_blocks(curvature, scheme, search, weights);
                    pack(block_type, &made, &mut scratch.bytes);
                    (sums.loss, sums.energy) = (made.loss, made.energy);
                }
                How::Weighed(gathered) => {
                    block_type.quantize_weighted(weights, &gathered.columns, &mut scratch.bytes);
                }
            }
            if block_type.first_invalid_block(&scratch.bytes).is_some() {
                return Err(too_large(block_type).about(self.source.name_of(io, first)));
            }
            scratch.floats.resize(weights.len(), 0.0);
            block_type.dequantize(&scratch.bytes, &mut scratch.floats);
            let originals = originals.map_or(&*weights, |originals| &originals[..weights.len()]);
            (sums.errors, sums.squares) = squared_errors(originals, &scratch.floats);
            weights.copy_from_slice(&scratch.floats);
            io.write(self.segment, first * row_bytes, &scratch.bytes)
        })?;
        io.progress(weights.len() as u64);
        Ok(sums)
    }

    /// Fills `out` with some rows of the matrix.
    fn fetch(&self, io: &UnitHandle, rows: &Range<u64>, out: &mut [f32]) -> Result<()> {
        let columns = self.source.row_elements;
        let step = (CHUNK_WEIGHTS / columns.max(1)).max(self.source.granule()).max(1).next_multiple_of(TILE as u64);
        let parts: Vec<_> = out.chunks_mut(in_memory(step * columns)?).map(Mutex::new).collect();
        io.host().parallel_map(parts.len(), |index| {
            let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
            let first = self.first + rows.start + index as u64 * step;
            let count = (part.len() as u64).checked_div(columns).unwrap_or(0);
            with_scratch(|scratch| {
                let all = (self.source.rows, columns);
                self.source.origin.fetch(io, &(first..first + count), all, scratch)?;
                if scratch.floats.len() != part.len() {
                    return Err(Failure::internal("rows of another length than planned"));
                }
                part.copy_from_slice(&scratch.floats);
                Ok(())
            })
        })?;
        Ok(())
    }
}

/// What is known of columns that few tokens were seen of: how large they were.
pub(super) fn importances(diagonal: &[f64], tokens: u64) -> Arc<Gathered> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "importances are in `f32`")]
    let means: Vec<_> = diagonal.iter().map(|sum| (sum / tokens.max(1) as f64) as f32).collect();
    Arc::new(Gathered::new(&means, tokens))
}
