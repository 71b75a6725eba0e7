//! What is lost with each width of codes: measured at the output of the layer, with the modules of one choice rounded
//! and everything else as it was.

use std::sync::{Mutex, PoisonError};

use qhost_linears::{
    Effort, Module, Substitutes, by_conditioning, by_inputs, curvature, fetch, grid, groups, in_memory, share,
};
use qhost_plugin_api::{
    documents::{CalibrationData, InputGroup, Statistic},
    sdk::{Failure, Result, UnitHandle},
};
use qhost_rounding::{Curvature, Rounded, TILE, round_rows};

use crate::{
    mixture::{Choice, Mixture, key},
    options::Choices,
};

/// Losses by choice and bits.
pub(crate) type Losses = qhost_budget::Losses<u32>;

/// Tokens that the layer is run on for each width, at least, as far as there are so many.
const TOKENS: u64 = 8192;

/// A loss that is none.
const WORST: f64 = 1e9;

/// The samples that have so many tokens, if they are as long as the longest.
pub(crate) fn samples(data: Option<&CalibrationData>) -> u64 {
    data.map_or(1, |data| TOKENS.div_ceil(u64::from(data.longest_row).max(1)))
}

/// The key under which the losses of a unit are kept.
fn record(unit: u32) -> String {
    format!("losses-{unit}")
}

/// Measures the choices of a unit, and keeps the losses.
pub(crate) fn survey_unit(
    io: &UnitHandle,
    choices: &Choices,
    mixture: &Mixture,
    (unit, modules): (u32, &[&Module]),
    samples: u64,
) -> Result<()> {
    let mut losses = Losses::new();
    for of_group in by_inputs(modules).into_values() {
        // Experts are one choice, the others that read the same another.
        let (experts, others): (Vec<_>, Vec<_>) = of_group.into_iter().partition(|(expert, _)| expert.is_some());
        for part in [others, experts] {
            let Some(first) = part.first().and_then(|(_, modules)| modules.first()) else { continue };
            let choice = mixture.choice_of(first).ok_or_else(|| Failure::internal("a module without a choice"))?;
            let of_choice = losses.entry(key(first)).or_default();
            for (bits, loss) in measure(io, choices, (choice, samples), &part)? {
                // What experts read and what they read within are measured apart; errors that have nothing to do with
                // each other add up.
                *of_choice.entry(bits).or_default() += if loss.is_finite() { loss.min(WORST) } else { WORST };
            }
        }
    }
    if losses.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string(&losses).map_err(|error| Failure::internal(error.to_string()))?;
    io.save(&record(unit), text.as_bytes())
}

/// Tells the report what was measured of a module's choice.
pub(crate) fn tell(io: &UnitHandle, mixture: &Mixture, module: &Module) {
    let Some(choice) = mixture.choice_of(module) else { return };
    for (bits, loss) in choice.bits.iter().zip(&choice.losses) {
        io.metric(module.first_segment, &format!("measured_loss_{bits}bit"), *loss);
    }
}

/// Modules with one input each, by expert.
type Part<'a> = [(Option<u32>, Vec<&'a Module>)];

/// The loss with each of the bits.
fn measure(
    io: &UnitHandle,
    choices: &Choices,
    (choice, samples): (&Choice, u64),
    part: &Part<'_>,
) -> Result<Vec<(u32, f64)>> {
    let mut curvatures = Vec::new();
    if let [(expert, modules)] = part {
        curvatures = conditioned(io, choices, *expert, modules)?;
    }
    let mut losses = Vec::new();
    for &bits in &choice.bits {
        let (mut substitutes, mut own) = (Substitutes::default(), (0.0, 0.0));
        let mut round = |curvatures: &[(Curvature, Vec<&Module>)]| -> Result<()> {
            for (curvature, modules) in curvatures {
                for module in modules {
                    let mut module = (*module).clone();
                    module.settings.bits = bits;
                    let (weights, (loss, energy)) = rounded(io, &module, curvature, choice.bits.len())?;
                    own = (own.0 + loss, own.1 + energy);
                    substitutes.put(io, &module, &weights)?;
                }
            }
            Ok(())
        };
        if curvatures.is_empty() {
            // There may be many; those of one at a time are in memory.
            for (expert, modules) in part {
                round(&conditioned(io, choices, *expert, modules)?)?;
            }
        } else {
            round(&curvatures)?;
        }
        substitutes.hand_over(io)?;
        let modules = || part.iter().flat_map(|(_, modules)| modules);
        if modules().any(|module| module.group == InputGroup::OutputIn) {
            // Nothing comes after the head.
            losses.push((bits, share(own.0, own.1)));
            continue;
        }
        let loss = io.loss(Some(samples))?;
        losses.push((bits, share(loss.mean_square, loss.original)));
        let mut tensors: Vec<_> = modules().map(|module| module.tensor).collect();
        tensors.dedup();
        tensors.into_iter().try_for_each(|tensor| io.substitute(tensor, None))?;
    }
    Ok(losses)
}

/// The Hessians of modules with one input.
fn conditioned<'a>(
    io: &UnitHandle,
    choices: &Choices,
    expert: Option<u32>,
    modules: &[&'a Module],
) -> Result<Vec<(Curvature, Vec<&'a Module>)>> {
    let Some(first) = modules.first() else { return Ok(Vec::new()) };
    let answer = io.statistic(first.group.clone(), Statistic::Gram, expert)?;
    let of_modules = by_conditioning(modules, choices.calibration.damp)?.into_iter();
    of_modules.map(|(how, modules)| Ok((curvature(io, &answer, &how, (None, None), false)?.0, modules))).collect()
}

/// The weights that codes of a module stand for, without much search; and what is lost of its own output, and of how
/// much. It is one of so many widths.
fn rounded(io: &UnitHandle, module: &Module, curvature: &Curvature, widths: usize) -> Result<(Vec<f32>, (f64, f64))> {
    let columns = in_memory(module.columns)?;
    let listed = curvature.listed_groups();
    let of_columns = groups(curvature, listed.as_deref());
    let grid = grid(module)?;
    let mut weights = vec![0.0; in_memory(module.weights())?];
    fetch(io, module, &mut weights)?;
    let parts: Vec<_> = weights.chunks_mut(TILE * columns).map(Mutex::new).collect();
    let sums = io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let tile = round_rows(curvature, grid, Effort::Fast.search(), &part);
        let rounded = Rounded { codes: tile.codes, scales: tile.scales, zeros: tile.zeros };
        rounded.dequantize(columns, of_columns, &mut part);
        io.progress((part.len() / widths.max(1)) as u64);
        Ok((tile.loss, tile.energy))
    })?;
    drop(parts);
    let sums = sums.iter().fold((0.0, 0.0), |sum, tile| (sum.0 + tile.0, sum.1 + tile.1));
    Ok((weights, sums))
}
