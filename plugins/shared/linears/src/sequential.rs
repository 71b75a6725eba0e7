//! All modules of a unit: rounded under the Hessian of their inputs, written, and put in the place of the originals.
//!
//! Groups of inputs are taken in the order of the data flow, each with the inputs that the modules rounded before it
//! give ("true-sequential"). How a module is written it is told.

use qhost_plugin_api::{
    documents::Statistic,
    sdk::{Result, UnitHandle},
};
use qhost_rounding::{Groups, Rounded};

use crate::{
    Calibration, Difference, Inputs, Module, Substitutes, arrive, by_conditioning, by_inputs, curvature, fetch,
    in_memory, refuse_infinite, round, tell,
};

/// Writes a module, whose inputs belong to these groups.
pub type WriteModule<'a> = &'a dyn Fn(&Module, &Rounded, Groups<'_>) -> Result<()>;

/// Makes every module of a unit; `hint` tells how one is left as it is.
///
/// # Errors
/// Fails when the host does not give or take what is needed, with kind `UNSUPPORTED` for weights that no scale can hold, and
/// as `write` does.
pub fn round_unit(
    io: &UnitHandle,
    calibration: &Calibration,
    modules: &[&Module],
    hint: &str,
    write: WriteModule<'_>,
) -> Result<()> {
    let mut substitutes = Substitutes::default();
    let (taken, modules): (Vec<&Module>, Vec<&Module>) = modules.iter().partition(|module| module.taken.is_some());
    for module in taken {
        take_over(io, module, (&modules, &mut substitutes), write)?;
    }
    substitutes.hand_over(io)?;
    for (group, of_group) in by_inputs(&modules) {
        for (expert, modules) in of_group {
            let answer = io.statistic(group.clone(), Statistic::Gram, expert)?;
            let difference = calibration.corrects.then(|| Difference::of(io, &group, expert)).transpose()?;
            for (how, modules) in by_conditioning(&modules, calibration.damp)? {
                let (curvature, factor) = curvature(io, &answer, &how, (None, None), calibration.corrects)?;
                let inputs = Inputs {
                    answer: &answer,
                    curvature: &curvature,
                    difference: difference.as_ref().zip(factor.as_ref()),
                };
                for module in modules {
                    let weights = make(io, calibration, module, &inputs, (hint, write))?;
                    substitutes.put(io, module, &weights)?;
                }
            }
        }
        substitutes.hand_over(io)?;
    }
    Ok(())
}

/// Takes a module over and writes it. Where that changes it, what is rounded in the unit is given what comes out.
fn take_over(
    io: &UnitHandle,
    module: &Module,
    (rounded, substitutes): (&[&Module], &mut Substitutes),
    write: WriteModule<'_>,
) -> Result<()> {
    let Some(taken) = &module.taken else { return Ok(()) };
    let arrived = arrive(io, module, taken)?;
    write(module, &arrived.rounded, arrived.groups())?;
    if !rounded.is_empty() && !taken.is_exact() {
        let mut weights = vec![0.0; in_memory(module.weights())?];
        arrived.rounded.dequantize(in_memory(module.columns)?, arrived.groups(), &mut weights);
        substitutes.put(io, module, &weights)?;
    }
    Ok(())
}

/// Rounds a module and writes it; gives the weights that its codes stand for.
fn make(
    io: &UnitHandle,
    calibration: &Calibration,
    module: &Module,
    inputs: &Inputs<'_>,
    (hint, write): (&str, WriteModule<'_>),
) -> Result<Vec<f32>> {
    let curvature = inputs.curvature;
    let mut weights = vec![0.0; in_memory(module.weights())?];
    fetch(io, module, &mut weights)?;
    let mut originals = None;
    if let Some((difference, factor)) = inputs.difference.filter(|_| !curvature.is_plain()) {
        originals = Some(weights.clone());
        difference.correct(io, (curvature, factor), None, &mut weights)?;
    }
    let search = calibration.effort.search();
    let made = round(io, module, curvature, search, (originals.as_deref(), None), &mut weights)?;
    refuse_infinite(module, &made.rounded, hint)?;
    write(module, &made.rounded, made.groups())?;
    tell(io, calibration.damp, (module.first_segment, &module.name), inputs, made.sums);
    Ok(weights)
}
