//! Weights that make good what the layers before have changed.
//!
//! The inputs `x` of a linear in the quantised model are not those of the original, `x°`. The weights that come nearest
//! to what the original gave, `min Σ |T x − W x°|²`, are `T = W + W (Σ (x° − x) xᵀ) H⁻¹` with `H = Σ x xᵀ`: the
//! asymmetric target of GPTAQ (Li et al., 2025) in closed form. Where what the linear gives is added to the stream, it can make
//! good the stream's own error `r° − r` as well: `T += (Σ (r° − r) xᵀ) H⁻¹`. `T` is what is rounded then.
//!
//! Where inputs are divided by `S` (diagonal) and weights multiplied with it, the Hessian at hand is that of the divided
//! inputs, `H' = S⁻¹ H S⁻¹`, and what is rounded is `T S`. With `D` for what stands before `H⁻¹` above,
//! `T S = W S + D H⁻¹ S = W S + (D S⁻¹) (S H⁻¹ S) = W S + (D S⁻¹) H'⁻¹`: the change is divided as the inputs are, and
//! the factor of `H'` solves it.

use qhost_plugin_api::{
    documents::{InputGroup, Operation, Statistic, StatisticsAnswer},
    sdk::{Compute, DType, Failure, Matrix, Result, UnitHandle},
};
use qhost_rounding::Curvature;

use crate::{in_memory, scale_columns};

/// Rows of a matrix that are corrected at a time, so that what is solved for stays small.
const ROWS: usize = 512;

/// What is known of the difference between the inputs of the original model and those of the quantised one.
#[derive(Debug)]
pub struct Difference {
    compute: Compute,
    cross: Option<Matrix>,
    residual: Option<StatisticsAnswer>,
}

/// The statistics that targets are made of, of a group.
pub(crate) fn statistics(group: &InputGroup) -> Vec<Statistic> {
    let mut what = vec![Statistic::Cross];
    what.extend(is_added(group).then_some(Statistic::Residual));
    what
}

/// Whether what a group's linear gives is added to the stream.
fn is_added(group: &InputGroup) -> bool {
    matches!(group, InputGroup::AttentionOut | InputGroup::FfnMid | InputGroup::SharedMid)
}

impl Difference {
    /// Asks for what there is of a group.
    ///
    /// # Errors
    /// Fails when the host has no such statistics or does not compute.
    pub fn of(io: &UnitHandle, group: &InputGroup, expert: Option<u32>) -> Result<Self> {
        let get = |what| {
            let answer = io.statistic(group.clone(), what, expert)?;
            Ok::<_, Failure>((answer.rows > 0 && !answer.all_tokens).then_some(answer))
        };
        let residual = if is_added(group) { get(Statistic::Residual)? } else { None };
        let compute = io.host().compute().ok_or_else(|| Failure::internal("the host does not compute"))?;
        // All modules that read the group are corrected with the same.
        let cross = get(Statistic::Cross)?
            .map(|answer| compute.upload(answer.rows, answer.row_elements, &numbers(io, &answer, 0, answer.rows)?))
            .transpose()?;
        Ok(Self { compute, cross, residual })
    }

    /// Turns weights `[outputs][inputs]` into their target, with the factor of the Hessian as it was conditioned.
    ///
    /// Where weights are scaled, `columns` has what each input is multiplied with, in the Hessian as well.
    ///
    /// # Errors
    /// Fails when the host does not compute.
    pub fn correct(
        &self,
        io: &UnitHandle,
        (curvature, factor): (&Curvature, &Matrix),
        columns: Option<&[f32]>,
        weights: &mut [f32],
    ) -> Result<()> {
        let width = curvature.grouping().width();
        let rows = weights.len() / width;
        let residual = self.residual.as_ref().filter(|answer| answer.rows == rows as u64);
        if self.cross.is_none() && residual.is_none() {
            return Ok(());
        }
        for (chunk, weights) in weights.chunks_mut(ROWS * width).enumerate() {
            let change = match residual {
                Some(answer) => numbers(io, answer, (chunk * ROWS) as u64, (weights.len() / width) as u64)?,
                None => vec![0.0; weights.len()],
            };
            self.correct_rows((curvature, factor), columns, change, weights)?;
        }
        Ok(())
    }

    /// The same for some rows, to whose change what the inputs have more is added.
    fn correct_rows(
        &self,
        (curvature, factor): (&Curvature, &Matrix),
        columns: Option<&[f32]>,
        mut change: Vec<f32>,
        weights: &mut [f32],
    ) -> Result<()> {
        let Self { compute, cross, .. } = self;
        let width = curvature.grouping().width();
        let count = weights.len() / width;
        if let Some(cross) = cross {
            // The difference is one of inputs that nothing divided.
            let unscaled = columns.map(|columns| {
                let mut unscaled = weights.to_vec();
                scale_columns(&mut unscaled, columns);
                unscaled
            });
            let x = compute.upload(count as u64, width as u64, unscaled.as_deref().unwrap_or(weights))?;
            drop(unscaled);
            let out = compute.upload(count as u64, width as u64, &change)?;
            compute.batch(vec![Operation::Product {
                a: x.handle(),
                b: cross.handle(),
                transposed: false,
                factor: 1.0,
                out: out.handle(),
            }])?;
            change = out.download()?;
        }
        if let Some(columns) = columns {
            scale_columns(&mut change, columns);
        }
        let solved = solve(compute, (curvature, factor), &change, count)?;
        for (column, solved) in curvature.factorised().zip(solved.chunks_exact(count)) {
            for (row, change) in solved.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, reason = "weights are in f32")]
                let change = *change as f32;
                weights[row * width + column] += change;
            }
        }
        Ok(())
    }
}

/// `change · H⁻¹`, transposed, with its rows in the order of the factor's.
fn solve(
    compute: &Compute,
    (curvature, factor): (&Curvature, &Matrix),
    change: &[f32],
    count: usize,
) -> Result<Vec<f64>> {
    let width = curvature.grouping().width();
    let mut turned = Vec::with_capacity(change.len());
    for column in curvature.factorised() {
        turned.extend((0..count).map(|row| f64::from(change[row * width + column]) / curvature.unit()));
    }
    let right = compute.upload_f64(width as u64, count as u64, &turned)?;
    drop(turned);
    let solve = |transposed| Operation::SolveLower { l: factor.handle(), transposed, right: right.handle() };
    compute.batch(vec![solve(false), solve(true)])?;
    right.download_f64()
}

/// Rows of a statistic in `f32`.
fn numbers(io: &UnitHandle, answer: &StatisticsAnswer, first: u64, rows: u64) -> Result<Vec<f32>> {
    let lent = io.rows(answer.tensor, first, rows)?;
    if lent.dtype() != DType::F32 {
        return Err(Failure::internal("a difference of inputs that is not in f32"));
    }
    let mut numbers = Vec::with_capacity(in_memory(rows * answer.row_elements)?);
    lent.widen(&mut numbers)?;
    Ok(numbers)
}

/// Memory that making targets takes for a matrix, and what whoever computes for it takes.
pub(crate) fn memory(rows: u64, columns: u64) -> (u64, u64) {
    let (square, chunk) = (columns * columns, rows.min(ROWS as u64) * columns);
    // The original weights, the difference, and a chunk of the change in both precisions.
    (rows * columns * 4 + square * 4 + chunk * (4 + 2 * 8), square * 4 + chunk * (2 * 4 + 8))
}
