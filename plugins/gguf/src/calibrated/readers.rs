//! What an error of the embedding does: the metric under which its rows are rounded.
//!
//! A row `e` of the embedding is read by the first layer, as `W (n ∘ e)` up to a factor of the row's own, with the gains
//! `n` of the norm before the matrices `W` of attention. An error changes that by `W (n ∘ δ)`, so that the metric is the sum of
//! `n ∘ WᵀW ∘ n`, each matrix by its trace. What reads the embedding further on is not looked at; it reads what carries
//! something, which is the embedding's own `Σ e eᵀ`. No data are needed for either.

use std::ops::Range;

use qhost_plugin_api::{
    documents::{InputGroup, Model, Operation},
    sdk::{CHUNK_WEIGHTS, Compute, Failure, Matrix, Result, UnitHandle, with_scratch},
};

use crate::{
    arrange::in_memory,
    importance::Input,
    items::{Content, Item},
    rows::Source,
};

/// Rows of the embedding that are looked at, at most, for each of its columns.
const ROWS_PER_COLUMN: u64 = 16;

/// What reads the embedding first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers {
    /// The matrices of attention of the first layer.
    pub(crate) matrices: Vec<Source>,
    /// The gains of the norm before them, if there is one.
    pub(crate) norm: Option<Source>,
}

/// What a tensor is to an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Matrix,
    Norm,
}

impl Readers {
    /// Whether a tensor of the file is among what reads the embedding first.
    pub(crate) fn reads(item: &Item, model: &Model) -> Option<Reading> {
        if !item.name.starts_with("blk.0.") || !matches!(item.content, Content::Weights { .. }) {
            return None;
        }
        if item.name == "blk.0.attn_norm.weight" {
            return Some(Reading::Norm);
        }
        let reads = Input::of(item, model).is_some_and(|input| *input.group() == InputGroup::AttentionIn);
        reads.then_some(Reading::Matrix)
    }

    pub(crate) fn push(&mut self, reading: Reading, source: Source) {
        match reading {
            Reading::Matrix => self.matrices.push(source),
            Reading::Norm => self.norm = Some(source),
        }
    }

    /// The metric of an embedding, `[width, width]`, of which the lower triangle is meant; its mean diagonal is that of so
    /// many matrices as there are, and one more.
    pub(super) fn metric(&self, io: &UnitHandle, embedding: &Source) -> Result<Vec<f64>> {
        let width = embedding.row_elements;
        let compute = io.host().compute().ok_or_else(|| Failure::internal("the host does not compute"))?;
        let total = compute.zeros(width, width, true)?;
        let mut gains = None;
        if let Some(norm) = self.norm.as_ref().filter(|norm| norm.rows * norm.row_elements == width) {
            gains = Some(rows_of(io, norm, 0..norm.rows)?);
        }
        for matrix in self.matrices.iter().filter(|matrix| matrix.row_elements == width) {
            let pieces = (0..matrix.rows).step_by(in_memory(step(width))?);
            let pieces = pieces.map(|start| start..matrix.rows.min(start + step(width)));
            add(io, &compute, matrix, pieces, gains.as_deref(), &total)?;
        }
        let all = embedding.rows;
        let wanted = all.min(width.saturating_mul(ROWS_PER_COLUMN));
        let pieces = wanted.div_ceil(step(width)).max(1);
        let each = (wanted / pieces).max(1);
        let pieces = (0..pieces).map(|piece| piece * all / pieces).map(|start| start..all.min(start + each));
        add(io, &compute, embedding, pieces, None, &total)?;
        total.download_f64()
    }

    /// The metric of an embedding that is the head as well, whose inputs have this Gram matrix: as much of
    /// one as of the other.
    pub(super) fn beside(&self, io: &UnitHandle, embedding: &Source, head: &[f64]) -> Result<Vec<f64>> {
        let mut both = self.metric(io, embedding)?;
        let diagonal = in_memory(embedding.row_elements)? + 1;
        let trace = |matrix: &[f64]| matrix.iter().step_by(diagonal).sum::<f64>();
        let (of_head, of_readers) = (trace(head), trace(&both));
        if of_head > 0.0 && of_readers > 0.0 {
            for (both, head) in both.iter_mut().zip(head) {
                *both = *both / of_readers * of_head + head;
            }
        }
        Ok(both)
    }
}

/// Rows that are multiplied at a time.
fn step(width: u64) -> u64 {
    (4 * CHUNK_WEIGHTS / width.max(1)).max(1).next_multiple_of(2)
}

/// Adds `Σ x xᵀ` of some rows, over its trace.
fn add(
    io: &UnitHandle,
    compute: &Compute,
    source: &Source,
    pieces: impl Iterator<Item = Range<u64>>,
    gains: Option<&[f32]>,
    total: &Matrix,
) -> Result<()> {
    let width = source.row_elements;
    let out = compute.zeros(width, width, true)?;
    let mut trace = 0.0;
    for rows in pieces {
        let mut numbers = rows_of(io, source, rows)?;
        if let Some(gains) = gains {
            for row in numbers.chunks_exact_mut(gains.len()) {
                row.iter_mut().zip(gains).for_each(|(weight, gain)| *weight *= gain);
            }
        }
        trace += numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>();
        let x = compute.upload(numbers.len() as u64 / width.max(1), width, &numbers)?;
        compute.batch(vec![Operation::Gram { x: x.handle(), out: out.handle() }])?;
    }
    if trace > 0.0 && trace.is_finite() {
        let add = Operation::Add { y: total.handle(), factor: 1.0 / trace, x: out.handle() };
        compute.batch(vec![add])?;
    }
    Ok(())
}

/// Some rows of a tensor of the file.
fn rows_of(io: &UnitHandle, source: &Source, rows: Range<u64>) -> Result<Vec<f32>> {
    with_scratch(|scratch| {
        source.origin.fetch(io, &rows, (source.rows, source.row_elements), scratch)?;
        Ok(std::mem::take(&mut scratch.floats))
    })
}
