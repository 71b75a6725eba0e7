//! What tensors of the file became, in the place of the checkpoint's: so that what comes after is given what the file
//! gives.

use std::collections::BTreeMap;

use qhost_plugin_api::{
    documents::Model,
    sdk::{Failure, Result, UnitHandle},
};

use super::matrix::Matrix;
use crate::{
    arrange::{Arrangement, Order, in_memory},
    rows::Source,
};

/// Tensors of the checkpoint that are put together from matrices of the file.
#[derive(Debug)]
pub(super) struct Substitutes<'a> {
    model: &'a Model,
    /// How many matrices are still missing of a tensor of which there are several.
    missing: BTreeMap<u32, u64>,
    parts: BTreeMap<u32, Vec<f32>>,
}

/// How many matrices of a tensor of the file come from each of its origins.
fn matrices_of_each(source: &Source) -> u64 {
    (source.matrices() / (source.origin.tensors.len() as u64).max(1)).max(1)
}

impl<'a> Substitutes<'a> {
    /// For tensors of the file that are all made in one go.
    pub(super) fn of(model: &'a Model, sources: &[&Source]) -> Self {
        let mut missing = BTreeMap::new();
        for source in sources {
            for tensor in &source.origin.tensors {
                *missing.entry(*tensor).or_default() += matrices_of_each(source);
            }
        }
        Self { model, missing, parts: BTreeMap::new() }
    }

    /// Puts a matrix in the place of the checkpoint's weights, given as it is in the file.
    pub(super) fn put(&mut self, io: &UnitHandle, matrix: &Matrix<'_>, made: &[f32]) -> Result<()> {
        let source = matrix.source;
        let of_each = matrices_of_each(source);
        let index = matrix.first / matrix.rows.max(1);
        let at = in_memory(index / of_each)?;
        let unknown = || Failure::internal("a matrix that comes from no tensor").about(matrix.name);
        let tensor = *source.origin.tensors.get(at).ok_or_else(unknown)?;
        let missing = self.missing.get_mut(&tensor).ok_or_else(unknown)?;
        if *missing == 1 && !self.parts.contains_key(&tensor) && source.origin.arrangement == AS_IT_IS {
            *missing = 0;
            return io.substitute(tensor, Some(made));
        }
        let known = self.model.tensors.get(in_memory(tensor.into())?).ok_or_else(unknown)?;
        let (lines, columns) = (known.rows() / of_each, known.row_elements());
        let whole = self.parts.entry(tensor).or_default();
        whole.resize(in_memory(known.elements())?, 0.0);
        let first = index % of_each * lines;
        let out = &mut whole[in_memory(first * columns)?..in_memory((first + lines) * columns)?];
        let width = in_memory(source.row_elements)?;
        let mut read = |row: u64, out: &mut [f32]| {
            let start = in_memory(row)? * width;
            out.copy_from_slice(&made[start..start + width]);
            Ok(())
        };
        // Matrices of a tensor follow each other in the file as in the checkpoint, so one is arranged as if it were alone.
        source.origin.restore(&(0..lines), columns, (matrix.rows, source.row_elements), &mut read, out)?;
        *missing -= 1;
        if *missing == 0
            && let Some(whole) = self.parts.remove(&tensor)
        {
            return io.substitute(tensor, Some(&whole));
        }
        Ok(())
    }

    /// Memory that the parts take at most.
    pub(super) fn memory(model: &Model, sources: &[&Source]) -> u64 {
        let tensors =
            sources.iter().filter(|source| source.origin.arrangement != AS_IT_IS || matrices_of_each(source) > 1);
        let mut tensors: Vec<_> = tensors.flat_map(|source| source.origin.tensors.iter().copied()).collect();
        tensors.sort_unstable();
        tensors.dedup();
        let elements = tensors.iter().filter_map(|tensor| model.tensors.get(usize::try_from(*tensor).ok()?));
        elements.map(|tensor| tensor.elements().saturating_mul(4)).fold(0, u64::saturating_add)
    }
}

const AS_IT_IS: Arrangement = Arrangement::Rows(Order::Kept);
