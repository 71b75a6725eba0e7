//! One folder, planned and made.
//!
//! It puts together what the other files know: what is quantised, how it is packed, and what the config says.

use std::borrow::Cow;

use qhost_folder::not_taken;
use qhost_linears::{
    Contents, Placement, Settings, check, check_head, check_host, check_source, copy, memory, module_name, units,
    units_alone,
};
use qhost_packed::Maker;
use qhost_plugin_api::{
    documents::{Findings, FormatDescription, Model, OpenRequest, Output, Plan, RoleKind, UnitOrder},
    sdk::{FilesHandle, FormatJob, HostHandle, Result, UnitHandle},
};

use crate::{check::wrong, config, options::Choices, pack::parts, unit, usage, write};

/// A planned folder.
pub struct FolderJob {
    host: HostHandle,
    plan: Plan,
    choices: Choices,
    placement: Placement,
    contents: Contents,
}

impl Maker for FolderJob {
    type Packing = crate::read::Settings;

    fn description() -> FormatDescription {
        crate::format::description()
    }

    fn open(request: &OpenRequest, files: &FilesHandle, host: HostHandle) -> Result<Self> {
        let model = &request.model;
        let mut choices = Choices::read(&request.options, request.calibrates)?;
        choices.offer(request.conversion.as_ref(), model);
        if choices.lm_head {
            check_head(model, "--plugin-option lm-head")?;
        }
        check_source(model)?;
        let mut contents = Contents::of(model, &choices)?;
        if choices.calibrates && contents.rounds() {
            check_host(host.facts(), "--calibration", &choices.calibration)?;
        }
        let names = contents.modules().map(|module| &*module.name).chain(contents.skipped.iter().map(|name| &**name));
        choices.refuse_unknown(&names.collect::<Vec<_>>())?;
        let head = head(model);
        if !choices.lm_head {
            // It is a linear for loaders, with a tensor of its own or without.
            contents.skipped.push(head.clone());
        }
        let placement = Placement::of(&mut contents.items, parts, choices.shard_bytes)?;
        let mut plan = Plan::new(&*request.format, choices.level(), Output::folder(suffix(&choices)));
        plan.files = placement.files();
        plan.segments =
            placement.segments(&contents.items, choices.calibration.effort, 0.0, request.conversion.is_some());
        if choices.calibrates {
            plan.units = units(model, &contents, &choices.calibration, write::memory);
            plan.order = UnitOrder::Sequential;
        } else {
            plan.units = units_alone(model, &contents, write::memory);
            plan.order = UnitOrder::Independent;
        }
        let quantization = config::quantization(&contents, choices.calibrates, &head)?;
        plan.companions = placement.small_files(Some(&quantization), None, files)?;
        plan.warnings = std::mem::take(&mut contents.warnings);
        plan.warnings.extend(usage::loader_limits(&contents, model));
        plan.warnings.extend(not_taken(files));
        plan.usage = Some(usage::text(&contents));
        plan.library = Some(usage::LIBRARY.into());
        Ok(Self { host, plan, choices, placement, contents })
    }
}

/// The module of the head.
fn head(model: &Model) -> String {
    let tensor = model.tensors.iter().find(|tensor| tensor.role.kind == RoleKind::Output);
    tensor.map_or_else(|| "lm_head".to_owned(), |tensor| module_name(&tensor.name))
}

/// What the output's name ends in.
fn suffix(choices: &Choices) -> String {
    let Settings { symmetric, act_order, .. } = choices.settings;
    let (asym, act) = (if symmetric { "" } else { "-asym" }, if act_order { "-act" } else { "" });
    format!("-CT-{}{asym}{act}", choices.level())
}

impl FormatJob for FolderJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        self.placement.constant(segment)
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let modules: Vec<_> = self.contents.modules().filter(|module| module.unit == unit).collect();
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let all = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        // Whoever computes for it asks for that part itself.
        let corrects = self.choices.calibration.corrects;
        let of_arithmetic = if self.choices.calibrates { memory(&modules, corrects, write::memory).1 } else { 0 };
        let _grant = io.host().grant(all.saturating_sub(of_arithmetic), "quantising")?;
        let kept: Vec<_> = self.contents.kept().filter(|kept| kept.unit == unit).collect();
        copy(io, &kept)?;
        unit::make(io, &self.choices, &modules)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let modules: Vec<_> = self.contents.modules().collect();
        check(files, &self.placement, &modules, &self.host, wrong)
    }
}
