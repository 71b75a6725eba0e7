//! All modules of a unit: scaled, rounded under the Hessian of their inputs, written, and put in the place of the
//! originals.
//!
//! Groups of inputs are taken in the order of the data flow, each with the inputs that the modules rounded before it
//! give ("true-sequential"). What takes the inverse of a scale may be rounded by then: codes and zeros stay as they are
//! when outputs are divided, only scales are divided, and so these are written last.

use qhost_linears::{
    Difference, Inputs, Kept, Module, OfExperts, Substitutes, arrive, by_conditioning, by_inputs, copy, fetch,
    in_memory, refuse_infinite, round, scale_columns, tell,
};
use qhost_plugin_api::{
    documents::{Fold, InputGroup, SourceTensor, Statistic},
    sdk::{Failure, Result, UnitHandle},
};
use qhost_rounding::f16;

use crate::{
    folding::{Folding, Part, largest_of_source, of_group, touches},
    options::Choices,
    sample::Sample,
    scaling::{Input, Readers, inverse, scale},
    write::{write_codes, write_scaled, write_scales},
};

/// What a unit is made of.
pub(crate) struct Unit<'a> {
    pub(crate) id: u32,
    pub(crate) choices: &'a Choices,
    /// The tensors of the model.
    pub(crate) tensors: &'a [SourceTensor],
    /// The folds that may be used, of all units.
    pub(crate) folds: &'a [Fold],
    pub(crate) modules: Vec<&'a Module>,
    pub(crate) kept: Vec<&'a Kept>,
}

/// A module whose scales are not written yet, and these.
type Pending<'a> = (&'a Module, Vec<f16>);

impl<'a> Unit<'a> {
    /// Makes everything of it.
    pub(crate) fn make(&self, io: &UnitHandle) -> Result<()> {
        let touched = |kept: &&&Kept| self.folds.iter().any(|fold| fold.unit == self.id && touches(fold, kept.tensor));
        let (scaled, plain): (Vec<&Kept>, Vec<&Kept>) = self.kept.iter().partition(touched);
        copy(io, &plain)?;
        let mut folding = Folding::default();
        let mut pending = Vec::new();
        let mut substitutes = Substitutes::default();
        let (taken, rounded): (Vec<&Module>, Vec<&Module>) =
            self.modules.iter().partition(|module| module.taken.is_some());
        for module in taken {
            take_over(io, module, (!rounded.is_empty()).then_some(&mut substitutes))?;
        }
        substitutes.hand_over(io)?;
        for (group, of_group) in by_inputs(&rounded) {
            self.scale_shared(io, &group, &of_group, &mut folding)?;
            for (expert, modules) in of_group {
                self.round_readers(io, (&group, expert), &modules, &mut folding, (&mut substitutes, &mut pending))?;
            }
            substitutes.hand_over(io)?;
        }
        for (module, scales) in pending {
            write_scales(io, module, &scales, folding.of_outputs(part(module)).as_deref())?;
        }
        for kept in scaled {
            let tensor = self.tensors.get(kept.tensor as usize);
            let tensor = tensor.ok_or_else(|| Failure::internal("a tensor that the model does not have"))?;
            write_scaled(io, &folding, (kept, tensor))?;
        }
        Ok(())
    }

    /// Scales inputs that experts share, by all tokens.
    fn scale_shared(
        &self,
        io: &UnitHandle,
        group: &InputGroup,
        experts: &OfExperts<'a>,
        folding: &mut Folding<'a>,
    ) -> Result<()> {
        if experts.contains_key(&None) {
            // What all tokens say is known when these are rounded, which comes first.
            return Ok(());
        }
        let Some(fold) = of_group(self.folds, self.id, group).find(|fold| fold.expert.is_none()) else { return Ok(()) };
        if folding.has(fold) {
            return Ok(());
        }
        let readers = self.readers(fold);
        let sample = Sample::of(io, &readers)?;
        let answer = io.statistic(group.clone(), Statistic::Gram, None)?;
        for (how, modules) in by_conditioning(&readers, self.choices.calibration.damp)?.into_iter().take(1) {
            let input = Input { io, answer: &answer, how, sizes: sample.energies(), keeps_factor: false };
            let (scales, _) = scale(&input, &self.of_fold(fold, &modules, &[])?, &sample)?;
            folding.put(fold, scales);
        }
        Ok(())
    }

    /// The modules that read the input of a fold.
    fn readers(&self, fold: &Fold) -> Vec<&'a Module> {
        let reads = |module: &&&Module| {
            let whose = fold.expert.is_none() || fold.expert == module.expert_of_statistics;
            fold.readers.contains(&module.tensor) && whose
        };
        self.modules.iter().filter(reads).copied().collect()
    }

    /// What is to be known of a fold that these modules read.
    fn of_fold<'s>(
        &'s self,
        fold: &'s Fold,
        modules: &'s [&'s Module],
        pending: &[Pending<'a>],
    ) -> Result<Readers<'s>> {
        let quantised = |id: &u32| self.modules.iter().any(|module| module.tensor == *id);
        let are_not_all_quantised = !fold.readers.iter().all(quantised);
        let mut largest = None;
        for (module, scales) in pending {
            largest = largest.or(largest_of_source(fold, part(module), (scales, in_memory(module.groups())?)));
        }
        Ok(Readers { fold, modules, tensors: self.tensors, are_not_all_quantised, largest_of_source: largest })
    }

    /// Rounds the modules that read one input.
    fn round_readers(
        &self,
        io: &UnitHandle,
        (group, expert): (&InputGroup, Option<u32>),
        modules: &[&'a Module],
        folding: &mut Folding<'a>,
        (substitutes, pending): (&mut Substitutes, &mut Vec<Pending<'a>>),
    ) -> Result<()> {
        let calibration = &self.choices.calibration;
        let answer = io.statistic(group.clone(), Statistic::Gram, expert)?;
        let difference = calibration.corrects.then(|| Difference::of(io, group, expert)).transpose()?;
        for (how, modules) in by_conditioning(modules, calibration.damp)? {
            let of_input = |fold: &&Fold| fold.expert == expert && !folding.has(fold);
            let fold = of_group(self.folds, self.id, group).find(of_input);
            let readers = fold.map_or_else(|| modules.clone(), |fold| self.readers(fold));
            let sample = Sample::of(io, &readers)?;
            let sizes = sample.energies();
            let input = Input { io, answer: &answer, how, sizes, keeps_factor: calibration.corrects };
            let mut conditioned = None;
            if let Some(fold) = fold {
                let (scales, made) = scale(&input, &self.of_fold(fold, &readers, pending)?, &sample)?;
                folding.put(fold, scales);
                conditioned = made;
            }
            drop(sample);
            if self.choices.scale_only {
                continue;
            }
            // All of them read the same, and so have the same scales.
            let scales =
                modules.first().and_then(|module| folding.of_inputs(module.tensor, module.expert_of_statistics));
            let scales = scales.map(|scales| Scales { by: scales.to_vec(), inverse: inverse(scales) });
            let (curvature, factor) = match conditioned {
                Some(conditioned) => conditioned,
                None => input.conditioned(scales.as_ref().map(|scales| &*scales.by))?,
            };
            let difference = difference.as_ref().zip(factor.as_ref());
            let inputs = Inputs { answer: &answer, curvature: &curvature, difference };
            for module in modules {
                let (weights, of_module) = self.round(io, module, &inputs, scales.as_ref())?;
                substitutes.put(io, module, &weights)?;
                pending.push((module, of_module));
            }
        }
        Ok(())
    }

    /// Rounds a module and writes its codes; gives the weights that they stand for, and its scales.
    fn round(
        &self,
        io: &UnitHandle,
        module: &Module,
        inputs: &Inputs<'_>,
        scales: Option<&Scales>,
    ) -> Result<(Vec<f32>, Vec<f16>)> {
        let Inputs { curvature, difference, .. } = inputs;
        let calibration = &self.choices.calibration;
        let mut weights = vec![0.0; in_memory(module.weights())?];
        fetch(io, module, &mut weights)?;
        if let Some(scales) = scales {
            scale_columns(&mut weights, &scales.by);
        }
        let columns = scales.map(|scales| &*scales.inverse);
        let mut originals = None;
        if let Some((difference, factor)) = difference.filter(|_| !curvature.is_plain()) {
            originals = Some(weights.clone());
            difference.correct(io, (curvature, factor), columns, &mut weights)?;
        }
        let search = calibration.effort.search();
        let made = round(io, module, curvature, search, (originals.as_deref(), columns), &mut weights)?;
        drop(originals);
        refuse_infinite(module, &made.rounded, "leave it as it is with --plugin-option modules-to-not-convert=NAME")?;
        if let Some(columns) = columns {
            scale_columns(&mut weights, columns);
        }
        write_codes(io, module, &made.rounded)?;
        tell(io, calibration.damp, (module.first_segment, &module.name), inputs, made.sums);
        Ok((weights, made.rounded.scales))
    }
}

/// Takes a module over and writes it. Where that changes it, what is rounded in the unit is given what comes out.
fn take_over(io: &UnitHandle, module: &Module, substitutes: Option<&mut Substitutes>) -> Result<()> {
    let Some(taken) = &module.taken else { return Ok(()) };
    let arrived = arrive(io, module, taken)?;
    write_codes(io, module, &arrived.rounded)?;
    write_scales(io, module, &arrived.rounded.scales, None)?;
    if let Some(substitutes) = substitutes.filter(|_| !taken.is_exact()) {
        let mut weights = vec![0.0; in_memory(module.weights())?];
        arrived.rounded.dequantize(in_memory(module.columns)?, arrived.groups(), &mut weights);
        substitutes.put(io, module, &weights)?;
    }
    Ok(())
}

/// The scales of an input, and what the input is multiplied with then.
struct Scales {
    by: Vec<f32>,
    inverse: Vec<f32>,
}

/// A module as a part of its tensor.
fn part(module: &Module) -> Part {
    Part {
        tensor: module.tensor,
        expert: module.expert_of_statistics.or(module.expert),
        first: module.outputs.first,
        step: module.outputs.step,
        count: module.rows,
    }
}
