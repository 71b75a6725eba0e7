//! One folder, planned and made.
//!
//! It knows which tensor goes where; what is quantised, how it is packed and what the config says are in the other
//! files.

use std::borrow::Cow;

use qhost_folder::{INDEX, Layout, Object, Tensor, companions, lay_out};
use qhost_plugin_api::{
    documents::{
        Companion, Findings, Model, OpenRequest, Output, Plan, PlannedFile, PlannedUnit, Precision, Segment, Statistic,
        StatisticsNeed, Survey, TensorSegment, UnitOrder,
    },
    sdk::{
        COMPUTE, Failure, FilesHandle, FormatJob, HostHandle, REPLAY, Result, STATISTICS, STATISTICS_2, SURVEY,
        UnitHandle,
    },
};

use crate::{
    check, config,
    mixture::Mixture,
    modules::{Contents, Item, Kept, Module, Segments},
    options::{Choices, Effort, Settings},
    pack::period,
    round_unit, survey, target, usage, write,
};

/// What a weight of a module costs, in nanoseconds on a core of the reference machine.
const MODULE_COST: f64 = 20.0;

/// What measuring costs beside that, where it comes first.
const SURVEY_COST: f64 = 30.0;

/// What an element costs that is copied.
const COPY_COST: f64 = 0.5;

/// A planned folder.
pub(crate) struct GptqJob {
    host: HostHandle,
    plan: Plan,
    choices: Choices,
    layout: Layout,
    tensors: Vec<Tensor>,
    items: Vec<Item>,
    /// What was chosen by measured losses, if a size was asked for.
    mixture: Option<Mixture>,
    /// Whether the units measure first, and on how many samples.
    surveys: Option<u64>,
}

impl GptqJob {
    pub(crate) fn open(request: &OpenRequest, files: &FilesHandle, host: HostHandle) -> Result<Self> {
        let mut choices = Choices::read(&request.options)?;
        choices.corrects = choices.effort == Effort::Best;
        let model = &request.model;
        choices.parameters = model.parameters();
        if [STATISTICS, REPLAY, COMPUTE].iter().any(|service| !host.facts().has_service(service)) {
            return Err(
                Failure::unsupported("this qhost does not run models, which GPTQ needs").hint("use a newer qhost")
            );
        }
        if choices.corrects && !host.facts().has_service(STATISTICS_2) {
            return Err(Failure::unsupported("this qhost does not compare the model with its original")
                .about("--effort best")
                .hint("use a newer qhost, or --effort default"));
        }
        if choices.lm_head && model.hyperparameters.tied_embeddings {
            return Err(Failure::unsupported("the head is the embedding, which is not quantised")
                .about("--plugin-option lm-head")
                .hint("leave the option out"));
        }
        if let Some(method) = model.config["quantization_config"]["quant_method"].as_str() {
            return Err(Failure::unsupported(format!("the model is quantised already: {method}"))
                .hint("quantise the original model"));
        }
        if choices.target.is_some() && !host.facts().has_service(SURVEY) {
            return Err(Failure::unsupported("this qhost does not measure before it plans").hint("use a newer qhost"));
        }
        let mut contents = Contents::of(model, &choices)?;
        let limit = choices.target.map(|target| target.bytes(choices.parameters));
        let measured = request.surveyed.as_ref().map(survey::read).transpose()?;
        let mixture = limit.map(|limit| Mixture::settle(&mut contents, &mut choices, limit, measured.as_ref()));
        let mixture = mixture.transpose()?;
        let surveys = mixture.is_some() && measured.is_none();
        let samples = survey::samples(request.calibration.as_ref());
        let tensors = tensors(&contents.items);
        let layout = lay_out(&tensors, choices.shard_bytes)?;
        place(&mut contents.items, &layout);
        let mut plan = Plan::new(&*request.format, choices.level(), Output::folder(suffix(&choices)));
        plan.files = layout.shards.iter().map(|shard| PlannedFile::new(&*shard.name, shard.bytes)).collect();
        plan.segments = segments(&contents.items, &layout, if surveys { SURVEY_COST } else { 0.0 });
        plan.survey = limit.filter(|_| surveys).map(Survey::within);
        plan.units = units(model, &contents, &choices);
        plan.order = UnitOrder::Sequential;
        plan.companions = small_files(&contents, &choices, files, &layout, &host.facts().version)?;
        plan.warnings = std::mem::take(&mut contents.warnings);
        plan.warnings.extend(usage::loader_limits(&choices, &contents));
        plan.warnings.extend(usage::renamed(&model.family, &contents));
        if let Some(file) = files.list().iter().find(|file| file.name.contains('/')) {
            plan.warnings.push(format!("{} is not taken along: the output is one folder", file.name));
        }
        plan.usage = Some(usage::text(&choices, &contents));
        plan.library = Some(usage::LIBRARY.into());
        Ok(Self {
            host,
            plan,
            choices,
            layout,
            tensors,
            items: contents.items,
            mixture,
            surveys: surveys.then_some(samples),
        })
    }

    fn modules(&self) -> impl Iterator<Item = &Module> {
        self.items.iter().filter_map(|item| match item {
            Item::Module(module) => Some(module),
            Item::Kept(_) => None,
        })
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.items.iter().filter_map(|item| match item {
            Item::Kept(kept) => Some(kept),
            Item::Module(_) => None,
        })
    }
}

/// What the output's name ends in.
fn suffix(choices: &Choices) -> String {
    let Settings { symmetric, act_order, .. } = choices.settings;
    let (asym, act) = (if symmetric { "" } else { "-asym" }, if act_order { "-act" } else { "" });
    format!("-GPTQ-{}{asym}{act}", choices.level())
}

/// The tensors of the folder: four for a module, one for what is kept.
pub(crate) fn tensors(items: &[Item]) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for item in items {
        match item {
            Item::Module(module) => {
                let name = |end: &str| format!("{}.{end}", module.name);
                let packed = |codes: u64| {
                    let (count, words) = period(module.settings.bits);
                    codes / count as u64 * words as u64
                };
                let (rows, columns, groups) = (module.rows, module.columns, module.groups());
                tensors.extend([
                    Tensor::new(name("qweight"), "I32", vec![packed(columns), rows]),
                    Tensor::new(name("qzeros"), "I32", vec![groups, packed(rows)]).following(),
                    Tensor::new(name("scales"), "F16", vec![groups, rows]).following(),
                    Tensor::new(name("g_idx"), "I32", vec![columns]).following(),
                ]);
            }
            Item::Kept(kept) => tensors.push(Tensor::new(&*kept.name, &*kept.dtype, kept.shape.clone())),
        }
    }
    tensors
}

/// Numbers the segments: first the headers, then the tensors in their order.
fn place(items: &mut [Item], layout: &Layout) {
    let mut next = u32::try_from(layout.shards.len()).unwrap_or(u32::MAX);
    let mut take = || {
        next += 1;
        next - 1
    };
    for item in items {
        match item {
            Item::Module(module) => {
                module.segments = Segments { qweight: take(), qzeros: take(), scales: take(), g_idx: take() };
            }
            Item::Kept(kept) => kept.segment = take(),
        }
    }
}

fn segments(items: &[Item], layout: &Layout, survey_cost: f64) -> Vec<Segment> {
    let headers = (0..).zip(&layout.shards).map(|(file, shard)| {
        Segment::constant(file, 0, shard.header.len() as u64, format!("header of {}", shard.name))
    });
    let mut segments: Vec<_> = headers.collect();
    let mut places = layout.places.iter();
    let mut push = |made: TensorSegment| {
        if let Some(place) = places.next() {
            segments.push(Segment::tensor(place.shard, place.offset, place.bytes, made));
        }
    };
    for item in items {
        match item {
            Item::Module(module) => {
                let encoding = encoding(module.settings);
                // As readers tell of them: codes by what they stand for, what belongs to them as it is stored.
                let parts = [
                    ("qweight", &*encoding, module.weights()),
                    ("qzeros", "I32", 0),
                    ("scales", "F16", 0),
                    ("g_idx", "I32", 0),
                ];
                for (end, encoding, elements) in parts {
                    let name = format!("{}.{end}", module.name);
                    let mut made = TensorSegment::new(name, module.unit, vec![module.tensor], encoding, elements);
                    made.cost = Some(MODULE_COST + survey_cost);
                    push(made);
                }
            }
            Item::Kept(kept) => {
                let sources = vec![kept.tensor];
                let mut made = TensorSegment::new(&*kept.name, kept.unit, sources, &*kept.dtype, kept.elements());
                made.cost = Some(COPY_COST);
                push(made);
            }
        }
    }
    segments
}

/// How a module is stored, in a word.
fn encoding(settings: Settings) -> String {
    let group = settings.group_size.map_or_else(|| "channel".to_owned(), |size| format!("g{size}"));
    format!("{}bit-{group}{}", settings.bits, if settings.symmetric { "" } else { "-asym" })
}

fn units(model: &Model, contents: &Contents, choices: &Choices) -> Vec<PlannedUnit> {
    let units = model.units.iter().map(|unit| {
        let modules: Vec<_> = contents.modules().filter(|module| module.unit == unit.id).collect();
        let mut planned = PlannedUnit::new(unit.id);
        let (own, of_arithmetic) = round_unit::memory(&modules, choices.corrects);
        planned.memory = own + of_arithmetic;
        planned.memory_per_thread = round_unit::memory_per_thread(&modules);
        let mut groups: Vec<_> = modules.iter().map(|module| &module.group).collect();
        groups.sort_unstable();
        groups.dedup();
        planned.statistics = groups
            .into_iter()
            .map(|group| {
                let mut what = vec![Statistic::Gram];
                if choices.corrects {
                    what.extend(target::statistics(group));
                }
                let mut need = StatisticsNeed::new(group.clone(), what);
                need.precision = Precision::Double;
                need.fewest_tokens = choices.fewest_tokens;
                need.scarce = choices.scarce;
                need
            })
            .collect();
        planned.replays = !planned.statistics.is_empty();
        planned
    });
    units.collect()
}

fn small_files(
    contents: &Contents,
    choices: &Choices,
    files: &FilesHandle,
    layout: &Layout,
    version: &str,
) -> Result<Vec<Companion>> {
    let quantization = config::quantization(choices, contents, version)?;
    let mut config = Object::config(files)?;
    config.set_object(config::KEY, &quantization)?;
    let mut made = vec![
        Companion::text(qhost_folder::CONFIG, config.text() + "\n"),
        Companion::text(config::FILE, quantization.text() + "\n"),
    ];
    made.extend(layout.index.as_ref().map(|index| Companion::text(INDEX, &**index)));
    made.extend(companions(files.list()));
    Ok(made)
}

impl FormatJob for GptqJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        let shard = self.layout.shards.get(segment as usize);
        shard
            .map(|shard| Cow::Borrowed(&*shard.header))
            .ok_or_else(|| Failure::internal(format!("segment {segment} is not constant")))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let modules: Vec<_> = self.modules().filter(|module| module.unit == unit).collect();
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        // Whoever computes for it asks for that part itself.
        let (_, of_arithmetic) = round_unit::memory(&modules, self.choices.corrects);
        let _grant = io.host().grant(memory.saturating_sub(of_arithmetic), "quantising")?;
        if let (Some(mixture), Some(samples)) = (&self.mixture, self.surveys) {
            return survey::survey_unit(io, &self.choices, mixture, (unit, &modules), samples);
        }
        let kept: Vec<_> = self.kept().filter(|kept| kept.unit == unit).collect();
        write::copy(io, &kept)?;
        round_unit::round_unit(io, &self.choices, &modules)?;
        if let Some(mixture) = &self.mixture {
            for module in modules {
                survey::tell(io, mixture, module);
            }
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let first = self.layout.shards.len();
        let placed: Vec<_> = self.modules().map(|module| (module.segments.qweight as usize - first, module)).collect();
        check::check(files, &self.layout, &self.tensors, &placed, self.choices.format, &self.host)
    }
}
