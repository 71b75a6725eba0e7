//! One folder, planned and made.
//!
//! It knows which tensor goes where; what is quantised, how it is packed and what the config says are in the other
//! files.

use std::{borrow::Cow, collections::BTreeSet};

use qhost_folder::not_taken;
use qhost_linears::{
    Contents, Item, Kept, Module, Placement, check, check_host, check_source, is_linear, is_stacked, memory,
    module_name, units,
};
use qhost_packed::Maker;
use qhost_plugin_api::{
    documents::{
        Fidelity, Findings, Fold, FoldSource, FormatDescription, Model, OpenRequest, Output, Part, Plan, RoleKind,
        SegmentContent, UnitOrder,
    },
    sdk::{Failure, FilesHandle, FormatJob, HostHandle, Result, UnitHandle},
};

use crate::{
    check::wrong,
    config,
    folding::touches,
    narrow::is_known,
    options::Choices,
    pack::{QZEROS, SCALES, parts},
    sample, size,
    unit::Unit,
    usage, write,
};

/// What finding scales costs for a weight, in nanoseconds on a core of the reference machine.
const SCALES_COST: f64 = 20.0;

/// The relative error of what is scaled and rounded to 16 bits, at most.
const SCALED_ERROR: f64 = 1.0 / 256.0;

/// A planned folder.
pub struct AwqJob {
    host: HostHandle,
    plan: Plan,
    choices: Choices,
    placement: Placement,
    model: Model,
    /// The folds that are used.
    folds: Vec<Fold>,
    modules: Vec<Module>,
    kept: Vec<Kept>,
}

impl Maker for AwqJob {
    type Packing = crate::read::Settings;

    fn description() -> FormatDescription {
        crate::format::description()
    }

    fn open(request: &OpenRequest, files: &FilesHandle, host: HostHandle) -> Result<Self> {
        let mut choices = Choices::read(&request.options)?;
        let model = &request.model;
        choices.offer(request.conversion.as_ref(), model);
        check_source(model)?;
        let note = choices.size.map(|size| size::settle(size, &mut choices, model)).transpose()?;
        let mut contents = Contents::of(model, &choices)?;
        if contents.rounds() {
            check_host(host.facts(), "AWQ", &choices.calibration)?;
        }
        let names = contents.modules().map(|module| &*module.name).chain(contents.skipped.iter().map(|name| &**name));
        choices.refuse_unknown(&names.collect::<Vec<_>>())?;
        contents.skipped.push(head(model));
        let folds = folds(model, &contents);
        let mut modules: Vec<_> = contents.modules().cloned().collect();
        let mut items = if choices.scale_only { unquantised(model, &folds)? } else { contents.items.clone() };
        let placement = Placement::of(&mut items, parts, choices.shard_bytes)?;
        let mut plan = Plan::new(&*request.format, choices.level(), Output::folder(suffix(&choices)));
        plan.files = placement.files();
        let is_converted = request.conversion.is_some();
        plan.segments = placement.segments(&items, choices.calibration.effort, SCALES_COST, is_converted);
        plan.units = units(model, &contents, &choices.calibration, write::memory);
        plan.order = UnitOrder::Sequential;
        let kept: Vec<_> = items
            .iter()
            .filter_map(|item| match item {
                Item::Kept(kept) => Some(kept.clone()),
                Item::Module(_) => None,
            })
            .collect();
        for unit in &mut plan.units {
            let rounded = modules.iter().filter(|module| module.taken.is_none());
            let of_unit: Vec<_> = rounded.filter(|module| module.unit == unit.unit).collect();
            let scaled = kept.iter().filter(|kept| folds.iter().any(|fold| touches(fold, kept.tensor)));
            let largest = scaled.filter(|kept| kept.unit == unit.unit).map(write::memory_of_scaled).max();
            // The scales of all modules are written last.
            let pending: u64 = of_unit.iter().map(|module| write::memory_of_scales(module)).sum();
            unit.memory += sample::memory(&of_unit) + largest.unwrap_or(0) + pending;
        }
        for kept in kept.iter().filter(|kept| folds.iter().any(|fold| touches(fold, kept.tensor))) {
            let segment = plan.segments.get_mut(kept.segment as usize);
            if let Some(SegmentContent::Tensor(tensor)) = segment.filter(|_| is_converted).map(|s| &mut s.content) {
                // Divided by scales, and rounded to its type.
                (tensor.fidelity, tensor.expected_error) = (Some(Fidelity::requantised()), Some(SCALED_ERROR));
            }
        }
        if choices.scale_only {
            plan.companions = placement.small_files(None, None, files)?;
            // Figures are told of the tensors that are scaled.
            for module in &mut modules {
                let written = kept.iter().find(|kept| kept.tensor == module.tensor);
                module.first_segment = written.map_or(0, |kept| kept.segment);
            }
        } else {
            let quantization = config::quantization(&choices, &contents, &host.facts().version)?;
            let own = config::of_autoawq(&choices, &contents)?;
            plan.companions = placement.small_files(Some(&quantization), Some((config::FILE, &own)), files)?;
            modules = items
                .iter()
                .filter_map(|item| match item {
                    Item::Module(module) => Some(module.clone()),
                    Item::Kept(_) => None,
                })
                .collect();
        }
        plan.warnings = std::mem::take(&mut contents.warnings);
        plan.warnings.extend(note);
        plan.warnings.extend(usage::loader_limits(&choices, &contents));
        plan.warnings.extend(usage::misread(model, &contents).filter(|_| !choices.scale_only));
        plan.warnings.extend(usage::not_scaled(model, &contents));
        plan.warnings.extend(not_taken(files));
        plan.usage = Some(usage::text(&choices, &contents));
        plan.library = Some(usage::LIBRARY.into());
        Ok(Self { host, plan, choices, placement, model: model.clone(), folds, modules, kept })
    }
}

/// The module of the head, which is never quantised. Without a tensor of its own it is a module all the same.
fn head(model: &Model) -> String {
    let tensor = model.tensors.iter().find(|tensor| tensor.role.kind == RoleKind::Output);
    tensor.map_or_else(|| "lm_head".to_owned(), |tensor| module_name(&tensor.name))
}

/// What the output's name ends in.
fn suffix(choices: &Choices) -> String {
    let kind = if choices.scale_only { "-AWQ-scaled-" } else { "-AWQ-" };
    let symmetric = if choices.settings.symmetric { "-sym" } else { "" };
    format!("{kind}{}{symmetric}", choices.level())
}

/// The folds that can be used: everything that reads the input is there to be scaled, what takes the inverse as well, and
/// modules that are left as they are stay so.
fn folds(model: &Model, contents: &Contents) -> Vec<Fold> {
    let quantised: BTreeSet<_> = contents.modules().map(|module| module.tensor).collect();
    let taken = contents.modules().filter(|module| module.taken.is_some()).map(|module| module.tensor);
    let taken: BTreeSet<_> = taken.collect();
    let scalable = |id: &u32| {
        if taken.contains(id) {
            return false;
        }
        let Some(tensor) = model.tensors.get(*id as usize) else { return false };
        let left_out = tensor.role.part == Part::Weight
            && is_linear(&tensor.role.kind)
            && !matches!(tensor.role.kind, RoleKind::Router | RoleKind::SharedRouter);
        quantised.contains(id) || !left_out && is_known(&tensor.dtype)
    };
    let usable = |fold: &&Fold| {
        let of_source = match &fold.source {
            FoldSource::Norm(norm) => scalable(&norm.weight) && norm.bias.as_ref().is_none_or(scalable),
            FoldSource::Rows(rows) => scalable(&rows.weight) && rows.bias.as_ref().is_none_or(scalable),
            _ => false,
        };
        of_source && fold.readers.iter().all(scalable) && fold.readers.iter().any(|id| quantised.contains(id))
    };
    model.folds.iter().filter(usable).cloned().collect()
}

/// All of a model, in floats; what scales may change in those that are exact.
fn unquantised(model: &Model, folds: &[Fold]) -> Result<Vec<Item>> {
    let kept = (0..).zip(&model.tensors).map(|(id, tensor)| {
        if is_stacked(tensor) {
            return Err(Failure::unsupported("stacked experts cannot be scaled without quantising them")
                .about(&*tensor.name)
                .hint("leave --plugin-option scale-only out"));
        }
        let mut kept = Kept::whole(id, tensor);
        if folds.iter().any(|fold| touches(fold, id)) {
            kept.dtype = "F32".into();
        }
        Ok(Item::Kept(kept))
    });
    kept.collect()
}

impl FormatJob for AwqJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        self.placement.constant(segment)
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let modules: Vec<_> = self.modules.iter().filter(|module| module.unit == unit).collect();
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let all = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        // Whoever computes for it asks for that part itself.
        let (_, of_arithmetic) = memory(&modules, self.choices.calibration.corrects, write::memory);
        let _grant = io.host().grant(all.saturating_sub(of_arithmetic), "quantising")?;
        let kept = self.kept.iter().filter(|kept| kept.unit == unit).collect();
        let Self { choices, model, folds, .. } = self;
        Unit { id: unit, choices, tensors: &model.tensors, folds, modules, kept }.make(io)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let modules: Vec<_> = self.modules.iter().filter(|_| !self.choices.scale_only).collect();
        check(files, &self.placement, &modules, &self.host, |module, read| {
            let (zeros, scales) = (read(QZEROS as usize)?, read(SCALES as usize)?);
            Ok(wrong(module, &zeros, &scales))
        })
    }
}
