//! A module whose weights are in memory, rounded under the Hessian of its inputs.
//!
//! It knows no arithmetic of rounding; that is `qhost-rounding`'s.

use std::sync::{Mutex, PoisonError};

use qhost_plugin_api::sdk::{Failure, Result, UnitHandle};
use qhost_rounding::{Curvature, Effort as Search, Grid, Groups, Rounded, TILE, f16, round_rows};

use crate::{Effort, Module, Sums, in_memory};

/// What trying a scale costs for a weight, in nanoseconds.
const PER_CANDIDATE: f64 = 1.0;

/// What a column of the Hessian costs for a weight.
const PER_COLUMN: f64 = 0.03;

/// A rounded module.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Codes, scales and zeros.
    pub rounded: Rounded,
    /// What is summed up over the rows.
    pub sums: Sums,
    /// The group of every input, where groups are no neighbours.
    listed: Option<Vec<u32>>,
    size: usize,
}

impl Outcome {
    /// Which group each input belongs to.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        self.listed.as_deref().map_or(Groups::Neighbours(self.size), Groups::Listed)
    }
}

/// Which group each input belongs to, with the list of [`Curvature::listed_groups`].
#[must_use]
pub fn groups<'a>(curvature: &Curvature, listed: Option<&'a [u32]>) -> Groups<'a> {
    listed.map_or(Groups::Neighbours(curvature.grouping().size()), Groups::Listed)
}

/// The codes that a module may have.
///
/// # Errors
/// Fails for a width that codes cannot have.
pub fn grid(module: &Module) -> Result<Grid> {
    let grid = u8::try_from(module.settings.bits).ok().and_then(|bits| Grid::new(bits, module.settings.symmetric));
    grid.ok_or_else(|| Failure::internal("a width of codes that was not planned"))
}

/// Rounds the weights of a module, output by output, and leaves in their place what the codes stand for.
///
/// Where the weights were changed to make something good, `originals` are those that errors are measured against.
/// Where they were scaled, both are, and `columns` has what each input is multiplied with: the errors that are summed
/// up are those of the weights without the scales.
///
/// # Errors
/// Fails when the weights are not those of the module, and when the user wants to stop.
pub fn round(
    io: &UnitHandle,
    module: &Module,
    curvature: &Curvature,
    search: Search,
    (originals, columns_by): (Option<&[f32]>, Option<&[f32]>),
    weights: &mut [f32],
) -> Result<Outcome> {
    let (rows, columns, count) = (in_memory(module.rows)?, in_memory(module.columns)?, in_memory(module.groups())?);
    let other = |numbers: &[f32], size: usize| numbers.len() != size;
    if other(weights, rows * columns)
        || originals.is_some_and(|originals| other(originals, rows * columns))
        || columns_by.is_some_and(|columns_by| other(columns_by, columns))
        || curvature.grouping().width() != columns
    {
        return Err(Failure::internal("weights of another size than the module").about(&*module.name));
    }
    let listed = curvature.listed_groups();
    let of_columns = groups(curvature, listed.as_deref());
    let grid = grid(module)?;
    let mut rounded =
        Rounded { codes: vec![0; rows * columns], scales: vec![f16::ZERO; rows * count], zeros: vec![0; rows * count] };
    let parts: Vec<_> = weights
        .chunks_mut(TILE * columns)
        .zip(rounded.codes.chunks_mut(TILE * columns))
        .zip(rounded.scales.chunks_mut(TILE * count).zip(rounded.zeros.chunks_mut(TILE * count)))
        .map(Mutex::new)
        .collect();
    let sums = io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let ((weights, codes), (scales, zeros)) = &mut *part;
        let tile = round_rows(curvature, grid, search, weights);
        codes.copy_from_slice(&tile.codes);
        scales.copy_from_slice(&tile.scales);
        zeros.copy_from_slice(&tile.zeros);
        let mut sums = Sums { loss: tile.loss, energy: tile.energy, ..Sums::default() };
        let rounded = Rounded { codes: tile.codes, scales: tile.scales, zeros: tile.zeros };
        let mut made = vec![0.0; weights.len()];
        rounded.dequantize(columns, of_columns, &mut made);
        let originals = originals.map_or(&**weights, |all| &all[index * TILE * columns..]);
        for (made, originals) in made.chunks_exact(columns).zip(originals.chunks_exact(columns)) {
            add_errors(&mut sums, made, originals, columns_by);
        }
        weights.copy_from_slice(&made);
        io.progress(weights.len() as u64);
        Ok(sums)
    })?;
    drop(parts);
    Ok(Outcome { rounded, sums: Sums::of(&sums), listed, size: curvature.grouping().size() })
}

/// Adds the errors of a row.
fn add_errors(sums: &mut Sums, made: &[f32], originals: &[f32], columns: Option<&[f32]>) {
    for (column, (made, original)) in made.iter().zip(originals).enumerate() {
        let by = columns.map_or(1.0, |columns| columns[column]);
        sums.errors += f64::from((made - original) * by).powi(2);
        sums.squares += f64::from(*original * by).powi(2);
    }
}

/// What rounding a weight of a module costs, in nanoseconds on a core of the reference machine: an error is made good by
/// all columns after it, and every pass takes the whole Hessian.
#[must_use]
pub fn round_cost(module: &Module, effort: Effort) -> f64 {
    let Search { candidates, passes } = effort.search();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (columns, candidates, passes) = (module.columns as f64, candidates as f64, passes as f64);
    PER_CANDIDATE * candidates + PER_COLUMN * columns * (0.5 + passes)
}

/// Multiplies the columns of a matrix, output by output, each with its factor.
pub fn scale_columns(weights: &mut [f32], columns: &[f32]) {
    for row in weights.chunks_exact_mut(columns.len().max(1)) {
        for (weight, by) in row.iter_mut().zip(columns) {
            *weight *= by;
        }
    }
}

/// Refuses a module with a scale that 16 bits cannot hold, with a hint how it is left out.
///
/// # Errors
/// Fails with kind `UNSUPPORTED`.
pub fn refuse_infinite(module: &Module, rounded: &Rounded, hint: &str) -> Result<()> {
    match rounded.scales.iter().find(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(scale) => {
            Err(Failure::unsupported(format!("its weights are too large for a 16-bit scale, which would be {scale}"))
                .about(&*module.name)
                .hint(hint))
        }
    }
}
