//! All modules of a unit: rounded under the Hessian of their inputs, written, and put in the place of the originals.
//!
//! Groups of inputs are taken in the order of the data flow, each with the inputs that the modules rounded before it
//! give ("true-sequential"). It knows no arithmetic of rounding; that is `qhost-rounding`'s.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use qhost_plugin_api::{
    documents::{InputGroup, Operation, Statistic, StatisticsAnswer},
    sdk::{Failure, FailureKind, Matrix, Result, UnitHandle},
};
use qhost_rounding::{
    Conditioning, Curvature, Effort as Search, Grid, Grouping, Groups, NotPositive, Order, Rounded, TILE, f16,
    round_rows,
};

use crate::{
    modules::Module,
    options::{Choices, Effort},
    target::{self, Difference},
    weights::{Substitutes, fetch, in_memory},
    write::{self, write_module},
};

/// Figures of a module for the report.
pub(crate) mod metric {
    /// The root of the summed squared errors of the weights over that of the summed squares.
    pub(crate) const RELATIVE_ERROR: &str = "relative_rms_error";
    /// The squared error of what the module gives over the square of what it gave, over the calibration data.
    pub(crate) const OUTPUT_LOSS: &str = "output_loss";
    /// Tokens that its Hessian is of.
    pub(crate) const TOKENS: &str = "tokens";
    /// 1 where an expert saw too few tokens and was shown all.
    pub(crate) const ALL_TOKENS: &str = "all_tokens";
    /// Inputs that were always zero.
    pub(crate) const DEAD_INPUTS: &str = "dead_inputs";
    /// What was added to the Hessian's diagonal, where that is more than was asked for.
    pub(crate) const DAMPING: &str = "damping";
    /// 1 where the inputs told nothing and every weight was rounded for itself.
    pub(crate) const PLAIN: &str = "rounded_to_nearest";
}

/// What is tried for each group of weights.
pub(crate) fn search(effort: Effort) -> Search {
    match effort {
        Effort::Fast => Search { candidates: 16, passes: 0 },
        Effort::Default => Search { candidates: 24, passes: 2 },
        Effort::Best => Search { candidates: 40, passes: 8 },
    }
}

/// Makes every module of a unit.
pub(crate) fn round_unit(io: &UnitHandle, choices: &Choices, modules: &[&Module]) -> Result<()> {
    let mut substitutes = Substitutes::default();
    for (group, of_group) in by_inputs(modules) {
        for (expert, modules) in of_group {
            let answer = io.statistic(group.clone(), Statistic::Gram, expert)?;
            let difference = choices.corrects.then(|| Difference::of(io, &group, expert)).transpose()?;
            for (how, modules) in by_conditioning(&modules, choices)? {
                let (curvature, factor) = curvature(io, &answer, &how, choices.corrects)?;
                let inputs = Inputs {
                    answer: &answer,
                    curvature: &curvature,
                    difference: difference.as_ref().zip(factor.as_ref()),
                };
                for module in modules {
                    let weights = round(io, choices, module, &inputs)?;
                    substitutes.put(io, module, &weights)?;
                }
            }
        }
        substitutes.hand_over(io)?;
    }
    Ok(())
}

pub(crate) type OfExperts<'a> = BTreeMap<Option<u32>, Vec<&'a Module>>;

/// Modules by what they read, in the order of the data flow.
pub(crate) fn by_inputs<'a>(modules: &[&'a Module]) -> BTreeMap<InputGroup, OfExperts<'a>> {
    let mut groups: BTreeMap<InputGroup, OfExperts<'a>> = BTreeMap::new();
    for module in modules {
        let of_group = groups.entry(module.group.clone()).or_default();
        of_group.entry(module.expert_of_statistics).or_default().push(module);
    }
    groups
}

/// Modules that can share a conditioned Hessian.
pub(crate) fn by_conditioning<'a>(
    modules: &[&'a Module],
    choices: &Choices,
) -> Result<Vec<(Conditioning, Vec<&'a Module>)>> {
    let mut shared: Vec<(Conditioning, Vec<&Module>)> = Vec::new();
    for module in modules {
        let size = module.settings.group_size.map_or(Ok(0), in_memory)?;
        let grouping = Grouping::new(in_memory(module.columns)?, size);
        let uneven = || Failure::internal("groups that do not divide the inputs").about(&*module.name);
        let order = if module.settings.act_order { Order::Activation } else { Order::GroupAware };
        let how = Conditioning { damping: choices.damp, order, grouping: grouping.ok_or_else(uneven)? };
        match shared.iter_mut().find(|(other, _)| *other == how) {
            Some((_, modules)) => modules.push(module),
            None => shared.push((how, vec![module])),
        }
    }
    Ok(shared)
}

/// What is known of the inputs of modules.
struct Inputs<'a> {
    answer: &'a StatisticsAnswer,
    curvature: &'a Curvature,
    /// What the original model's inputs have more, and the factor of the Hessian.
    difference: Option<(&'a Difference, &'a Matrix)>,
}

/// The Hessian of some inputs, ready for rounding, and its factor if that is to be kept and there is one.
pub(crate) fn curvature(
    io: &UnitHandle,
    answer: &StatisticsAnswer,
    how: &Conditioning,
    keeps_factor: bool,
) -> Result<(Curvature, Option<Matrix>)> {
    let rows = io.rows(answer.tensor, 0, answer.rows)?;
    let width = answer.rows;
    if width != how.grouping.width() as u64 || answer.row_elements != width {
        return Err(Failure::internal(format!("the inputs have {width} columns, the matrix others")));
    }
    let gram: &[f64] = bytemuck::try_cast_slice(rows.bytes())
        .map_err(|error| Failure::internal(format!("the host lends a Gram matrix that is none: {error}")))?;
    let compute = io.host().compute().ok_or_else(|| Failure::internal("the host does not compute"))?;
    let mut factor = None;
    let curvature = Curvature::of(gram, how, |matrix| {
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
    })?;
    Ok((curvature, factor))
}

/// The codes that a module may have.
pub(crate) fn grid(module: &Module) -> Result<Grid> {
    let grid = u8::try_from(module.settings.bits).ok().and_then(|bits| Grid::new(bits, module.settings.symmetric));
    grid.ok_or_else(|| Failure::internal("a width of codes that was not planned"))
}

/// Rounds a module and writes it; gives the weights that its codes stand for.
fn round(io: &UnitHandle, choices: &Choices, module: &Module, inputs: &Inputs<'_>) -> Result<Vec<f32>> {
    let curvature = inputs.curvature;
    let (rows, columns, groups) = (in_memory(module.rows)?, in_memory(module.columns)?, in_memory(module.groups())?);
    let listed = curvature.listed_groups();
    let of_columns = listed.as_deref().map_or(Groups::Neighbours(curvature.grouping().size()), Groups::Listed);
    let grid = grid(module)?;
    let mut weights = vec![0.0; rows * columns];
    fetch(io, module, &mut weights)?;
    let mut originals = None;
    if let Some((difference, factor)) = inputs.difference.filter(|_| !curvature.is_plain()) {
        originals = Some(weights.clone());
        difference.correct(io, (curvature, factor), &mut weights)?;
    }
    let mut rounded = Rounded {
        codes: vec![0; rows * columns],
        scales: vec![f16::ZERO; rows * groups],
        zeros: vec![0; rows * groups],
    };
    let parts: Vec<_> = weights
        .chunks_mut(TILE * columns)
        .zip(rounded.codes.chunks_mut(TILE * columns))
        .zip(rounded.scales.chunks_mut(TILE * groups).zip(rounded.zeros.chunks_mut(TILE * groups)))
        .map(Mutex::new)
        .collect();
    let sums = io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let ((weights, codes), (scales, zeros)) = &mut *part;
        let tile = round_rows(curvature, grid, search(choices.effort), weights);
        codes.copy_from_slice(&tile.codes);
        scales.copy_from_slice(&tile.scales);
        zeros.copy_from_slice(&tile.zeros);
        let mut sums = Sums { loss: tile.loss, energy: tile.energy, ..Sums::default() };
        let rounded = Rounded { codes: tile.codes, scales: tile.scales, zeros: tile.zeros };
        let mut made = vec![0.0; weights.len()];
        rounded.dequantize(columns, of_columns, &mut made);
        let originals = originals.as_ref().map_or(&**weights, |all: &Vec<f32>| &all[index * TILE * columns..]);
        for (made, original) in made.iter().zip(originals) {
            sums.errors += f64::from(made - original).powi(2);
            sums.squares += f64::from(*original).powi(2);
        }
        weights.copy_from_slice(&made);
        io.progress(weights.len() as u64);
        Ok(sums)
    })?;
    drop(parts);
    if let Some(scale) = rounded.scales.iter().find(|scale| !scale.is_finite()) {
        return Err(Failure::unsupported(format!(
            "its weights are too large for a 16-bit scale, which would be {scale}"
        ))
        .about(&*module.name)
        .hint("leave the module as it is with --plugin-option dynamic=…"));
    }
    write_module(io, module, &rounded, of_columns, choices.format)?;
    tell(io, choices, module, inputs, Sums::of(&sums));
    Ok(weights)
}

/// What is summed up over the rows of a module.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    loss: f64,
    energy: f64,
    errors: f64,
    squares: f64,
}

impl Sums {
    /// All together, in the order of the parts, so that figures do not depend on the threads.
    fn of(parts: &[Self]) -> Self {
        parts.iter().fold(Self::default(), |sum, part| Self {
            loss: sum.loss + part.loss,
            energy: sum.energy + part.energy,
            errors: sum.errors + part.errors,
            squares: sum.squares + part.squares,
        })
    }
}

pub(crate) fn share(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 0.0 }
}

/// Tells the report how a module came out.
fn tell(io: &UnitHandle, choices: &Choices, module: &Module, inputs: &Inputs<'_>, sums: Sums) {
    let Inputs { answer, curvature, .. } = inputs;
    let metric = |key: &str, value: f64| io.metric(module.segments.qweight, key, value);
    let loss = share(sums.loss, sums.energy);
    metric(metric::RELATIVE_ERROR, share(sums.errors, sums.squares).sqrt());
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (tokens, dead) = (answer.tokens as f64, curvature.dead() as f64);
    metric(metric::TOKENS, tokens);
    if answer.all_tokens {
        metric(metric::ALL_TOKENS, 1.0);
    }
    if curvature.dead() > 0 {
        metric(metric::DEAD_INPUTS, dead);
    }
    if curvature.is_plain() {
        metric(metric::PLAIN, 1.0);
        tracing::warn!("{}: the calibration data tell nothing of its inputs: rounded to nearest", module.name);
        return;
    }
    metric(metric::OUTPUT_LOSS, loss);
    if curvature.damping() > choices.damp {
        metric(metric::DAMPING, curvature.damping());
        tracing::warn!("{}: its Hessian took damping of {}", module.name, curvature.damping());
    }
    tracing::debug!("{}: output loss {loss:.2e}", module.name);
}

/// Memory that a unit with these modules takes, and what of it is asked for by whoever computes for it.
pub(crate) fn memory(modules: &[&Module], corrects: bool) -> (u64, u64) {
    let square = modules.iter().map(|module| module.columns * module.columns).max().unwrap_or(0);
    // While a Hessian is made ready there is the matrix, then its factor with what rounding reads; in between it is
    // the arithmetic's.
    let (conditioning, conditioned, factor) = (14 * square, 6 * square, 8 * square);
    // The weights and what stands for them, codes, and what packing takes.
    let targets = modules.iter().filter(|_| corrects).map(|module| target::memory(module.rows, module.columns));
    let (target, of_target) = targets.fold((0, 0), |most: (u64, u64), one| (most.0.max(one.0), most.1.max(one.1)));
    let of_module = |module: &&Module| module.weights() * 5 + module.rows * module.groups() * 3 + write::memory(module);
    let largest = modules.iter().map(of_module).max().unwrap_or(0);
    // Tensors with several modules are kept until all of them are there.
    let split: u64 = modules.iter().filter(|module| module.expert.is_some()).map(|module| module.weights() * 4).sum();
    // With targets the factor stays while modules are rounded.
    let own = conditioning.max(conditioned + largest + target).saturating_add(split);
    (own, factor + of_target)
}

/// Memory that every thread takes beside that.
pub(crate) fn memory_per_thread(modules: &[&Module]) -> u64 {
    // Weights, codes and errors of a tile in floats, and the tile once more as it comes out.
    modules.iter().map(|module| module.columns * TILE as u64 * (3 * 4 + 1 + 4)).max().unwrap_or(0)
}
