//! The Hessian of some inputs, as the host has it, made ready for rounding.

use qhost_plugin_api::{
    documents::{Operation, StatisticsAnswer},
    sdk::{Failure, FailureKind, Matrix, Result, UnitHandle},
};
use qhost_rounding::{Conditioning, Curvature, NotPositive};

/// The Hessian of some inputs, ready for rounding, and its factor if that is to be kept and there is one.
///
/// Columns are ordered by their inputs' energies, or these times `sizes`; as [`Curvature::of`] has it.
///
/// Where the inputs reach the modules divided by something, `columns` has for each input what it is multiplied with.
///
/// # Errors
/// Fails when the host's answer is no Gram matrix of such inputs, or it does not compute.
pub fn curvature(
    io: &UnitHandle,
    answer: &StatisticsAnswer,
    how: &Conditioning,
    (columns, sizes): (Option<&[f32]>, Option<&[f64]>),
    keeps_factor: bool,
) -> Result<(Curvature, Option<Matrix>)> {
    let rows = io.rows(answer.tensor, 0, answer.rows)?;
    let width = answer.rows;
    if width != how.grouping.width() as u64 || answer.row_elements != width {
        return Err(Failure::internal(format!("the inputs have {width} columns, the matrix others")));
    }
    if columns.is_some_and(|columns| columns.len() as u64 != width) {
        return Err(Failure::internal(format!("the inputs have {width} columns, their factors are others")));
    }
    conditioned(io, gram_of(rows.bytes())?, how, (columns, sizes), keeps_factor)
}

/// The numbers of a Gram matrix that the host lends.
///
/// # Errors
/// Fails when they are none.
pub fn gram_of(bytes: &[u8]) -> Result<&[f64]> {
    bytemuck::try_cast_slice(bytes)
        .map_err(|error| Failure::internal(format!("the host lends a Gram matrix that is none: {error}")))
}

/// A matrix that is as a Hessian is, ready for rounding, and its factor; as [`curvature`].
///
/// # Errors
/// Fails when the host does not compute.
pub fn conditioned(
    io: &UnitHandle,
    gram: &[f64],
    how: &Conditioning,
    (columns, sizes): (Option<&[f32]>, Option<&[f64]>),
    keeps_factor: bool,
) -> Result<(Curvature, Option<Matrix>)> {
    let width = how.grouping.width() as u64;
    let compute = io.host().compute().ok_or_else(|| Failure::internal("the host does not compute"))?;
    let mut factor = None;
    let factorise = |matrix: Vec<f64>| {
        let on_device = compute.upload_f64(width, width, &matrix)?;
        drop(matrix);
        match compute.batch(vec![Operation::Cholesky { a: on_device.handle() }]) {
            Ok(()) => {
                let numbers = on_device.download_f64()?;
                factor = keeps_factor.then_some(on_device);
                Ok(Ok(numbers))
            }
            Err(failure) if failure.kind == FailureKind::CORRUPT => Ok(Err(NotPositive)),
            Err(failure) => Err(failure),
        }
    };
    let curvature = match columns {
        Some(columns) => Curvature::of_scaled(gram, columns, how, sizes, factorise)?,
        None => Curvature::of(gram, how, sizes, factorise)?,
    };
    Ok((curvature, factor))
}
