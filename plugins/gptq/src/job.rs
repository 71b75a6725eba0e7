//! One folder, planned and made.
//!
//! It puts together what the other files know: what is quantised, how it is packed, and what the config says.

use std::borrow::Cow;

use qhost_budget::read_losses;
use qhost_folder::not_taken;
use qhost_linears::{
    Contents, Placement, Settings, check, check_head, check_host, check_source, copy, memory, round_unit, units,
};
use qhost_packed::Maker;
use qhost_plugin_api::{
    documents::{Findings, FormatDescription, OpenRequest, Output, Plan, Survey, UnitOrder},
    sdk::{Failure, FilesHandle, FormatJob, HostHandle, Result, SURVEY, UnitHandle},
};

use crate::{
    check::wrong,
    config,
    mixture::{Mixture, rules_of_taken},
    options::Choices,
    pack::{SCALES, ZEROS, parts},
    survey, usage, write,
};

/// What measuring costs for a weight, where it comes first, in nanoseconds on a core of the reference machine.
const SURVEY_COST: f64 = 30.0;

/// A planned folder.
pub struct GptqJob {
    host: HostHandle,
    plan: Plan,
    choices: Choices,
    placement: Placement,
    contents: Contents,
    /// What was chosen by measured losses, if a size was asked for.
    mixture: Option<Mixture>,
    /// Whether the units measure first, and on how many samples.
    surveys: Option<u64>,
}

impl Maker for GptqJob {
    type Packing = crate::read::Settings;

    fn description() -> FormatDescription {
        crate::format::description()
    }

    fn open(request: &OpenRequest, files: &FilesHandle, host: HostHandle) -> Result<Self> {
        let mut choices = Choices::read(&request.options)?;
        let model = &request.model;
        choices.parameters = model.parameters();
        choices.offer(request.conversion.as_ref(), model);
        if choices.lm_head {
            check_head(model, "--plugin-option lm-head")?;
        }
        check_source(model)?;
        if choices.target.is_some() && !host.facts().has_service(SURVEY) {
            return Err(Failure::unsupported("this qhost does not measure before it plans").hint("use a newer qhost"));
        }
        let mut contents = Contents::of(model, &choices)?;
        if contents.rounds() {
            check_host(host.facts(), "GPTQ", &choices.calibration)?;
        }
        choices.refuse_zeros(contents.modules())?;
        choices.settle_format(contents.modules());
        let limit = choices.target.map(|target| target.bytes(choices.parameters));
        let measured = request.surveyed.as_ref().map(read_losses).transpose()?;
        let mixture = limit.map(|limit| Mixture::settle(&mut contents, &mut choices, limit, measured.as_ref()));
        let mixture = mixture.transpose()?;
        let surveys = mixture.is_some() && measured.is_none();
        let samples = survey::samples(request.calibration.as_ref());
        let placement = Placement::of(&mut contents.items, parts, choices.shard_bytes)?;
        let mut plan = Plan::new(&*request.format, choices.level(), Output::folder(suffix(&choices)));
        plan.files = placement.files();
        let (effort, more) = (choices.calibration.effort, if surveys { SURVEY_COST } else { 0.0 });
        plan.segments = placement.segments(&contents.items, effort, more, request.conversion.is_some());
        plan.survey = limit.filter(|_| surveys).map(Survey::within);
        plan.units = units(model, &contents, &choices.calibration, write::memory);
        plan.order = UnitOrder::Sequential;
        let mixed = match &mixture {
            Some(mixture) => mixture.rules.clone(),
            None => rules_of_taken(&contents, &choices)?,
        };
        let quantization = config::quantization(&choices, &contents, &mixed, &host.facts().version)?;
        plan.companions = placement.small_files(Some(&quantization), Some((config::FILE, &quantization)), files)?;
        plan.warnings = std::mem::take(&mut contents.warnings);
        plan.warnings.extend(usage::loader_limits(&choices, &contents));
        plan.warnings.extend(usage::renamed(&model.family, &contents));
        plan.warnings.extend(not_taken(files));
        plan.usage = Some(usage::text(&choices, &contents));
        plan.library = Some(usage::LIBRARY.into());
        let surveys = surveys.then_some(samples);
        Ok(Self { host, plan, choices, placement, contents, mixture, surveys })
    }
}

/// What the output's name ends in.
fn suffix(choices: &Choices) -> String {
    let Settings { symmetric, act_order, .. } = choices.settings;
    let (asym, act) = (if symmetric { "" } else { "-asym" }, if act_order { "-act" } else { "" });
    format!("-GPTQ-{}{asym}{act}", choices.level())
}

impl FormatJob for GptqJob {
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
        let (_, of_arithmetic) = memory(&modules, self.choices.calibration.corrects, write::memory);
        let _grant = io.host().grant(all.saturating_sub(of_arithmetic), "quantising")?;
        if let (Some(mixture), Some(samples)) = (&self.mixture, self.surveys) {
            return survey::survey_unit(io, &self.choices, mixture, (unit, &modules), samples);
        }
        let kept: Vec<_> = self.contents.kept().filter(|kept| kept.unit == unit).collect();
        copy(io, &kept)?;
        let hint = "leave the module as it is with --plugin-option dynamic=…";
        round_unit(io, &self.choices.calibration, &modules, hint, &|module, rounded, groups| {
            write::write_module(io, module, rounded, groups, self.choices.format)
        })?;
        if let Some(mixture) = &self.mixture {
            for module in modules {
                survey::tell(io, mixture, module);
            }
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let modules: Vec<_> = self.contents.modules().collect();
        check(files, &self.placement, &modules, &self.host, |module, read| {
            let (zeros, scales) = (read(ZEROS as usize)?, read(SCALES as usize)?);
            Ok(wrong(module, &zeros, &scales, self.choices.format))
        })
    }
}
