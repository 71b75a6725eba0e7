//! One folder, planned and made.
//!
//! It puts together what the other files know: the type of the weights, what is in the folder, and what its config says.

use std::borrow::Cow;

use qhost_budget::Size;
use qhost_folder::{CONFIG, INDEX, Layout, companions, lay_out, not_taken};
use qhost_plugin_api::{
    documents::{Companion, Findings, Model, OpenRequest, Output, Plan, PlannedFile, PlannedUnit, Segment, UnitOrder},
    sdk::{Failure, FilesHandle, FormatJob, HostHandle, Result, UnitHandle},
};

use crate::{
    check,
    config::SourceConfig,
    float_type::FloatType,
    items::{Item, items},
    level::{self, Source},
    options::Choices,
    usage, write,
};

/// What ends the names of files that are about other parts of a larger model than its language model.
const OF_OTHER_PARTS: &str = "processor_config.json";

/// A planned folder.
pub struct FolderJob {
    host: HostHandle,
    plan: Plan,
    layout: Layout,
    items: Vec<Item>,
}

impl FolderJob {
    pub(crate) fn open(request: &OpenRequest, files: &FilesHandle, host: HostHandle) -> Result<Self> {
        let choices = Choices::read(&request.options)?;
        let model = &request.model;
        let config = SourceConfig::read(model, files)?;
        let source = match &request.conversion {
            Some(conversion) => Source::converted(conversion),
            None if config.tells_of_quantisation() => Source::Widened,
            None => Source::Checkpoint,
        };
        let level = choices.level.map_or_else(|| level::default(model, source), Ok)?;
        let (level, mut items, layout) = within(&choices, model, level, |level| {
            let items = items(model, level, config.is_nested())?;
            let tensors: Vec<_> = items.iter().map(Item::placed).collect();
            let layout = lay_out(&tensors, choices.shard_bytes)?;
            Ok((items, layout))
        })?;
        let first = u32::try_from(layout.shards.len()).unwrap_or(u32::MAX);
        for (segment, item) in (first..).zip(&mut items) {
            item.segment = segment;
        }
        let mut plan = Plan::new(&*request.format, level.name(), Output::folder(format!("-{}", level.name())));
        plan.files = layout.shards.iter().map(|shard| PlannedFile::new(&*shard.name, shard.bytes)).collect();
        plan.segments = segments(&layout, &items, level);
        plan.units = model.units.iter().map(|unit| planned(unit.id, &items)).collect();
        plan.order = UnitOrder::Independent;
        plan.companions.push(Companion::text(CONFIG, config.of_folder(model, level)?));
        plan.companions.extend(layout.index.as_ref().map(|index| Companion::text(INDEX, &**index)));
        let small = companions(files.list()).into_iter();
        plan.companions.extend(small.filter(|file| !config.is_nested() || !file.name.ends_with(OF_OTHER_PARTS)));
        plan.warnings.extend(usage::less_range(level, items.iter().map(|item| item.from)));
        plan.warnings.extend(not_taken(files));
        plan.usage = Some(usage::TEXT.into());
        plan.library = Some(usage::LIBRARY.into());
        Ok(Self { host, plan, layout, items })
    }
}

/// A folder of the type that is given, or of 16 bits where a size is asked for that it does not keep; of the two types with
/// these, the one that loses less of weights of usual size.
fn within(
    choices: &Choices,
    model: &Model,
    level: FloatType,
    laid_out: impl Fn(FloatType) -> Result<(Vec<Item>, Layout)>,
) -> Result<(FloatType, Vec<Item>, Layout)> {
    let limit = choices.size.map_or(u64::MAX, |size| size.bytes(model.parameters()));
    let mut least = u64::MAX;
    for level in [level, FloatType::F16] {
        let (items, layout) = laid_out(level)?;
        let bytes = layout.shards.iter().map(|shard| shard.bytes).sum();
        if bytes <= limit {
            return Ok((level, items, layout));
        }
        least = least.min(bytes);
    }
    let flag = choices.size.map_or("--max-size", Size::flag);
    Err(Failure::unsupported(format!("files of at most {limit} bytes are not to be had with floats"))
        .about(flag)
        .hint(format!("this model takes {least} bytes and more; other formats take fewer: see `qhost plugins list`")))
}

/// The headers of the files, then the tensors in their order.
fn segments(layout: &Layout, items: &[Item], level: FloatType) -> Vec<Segment> {
    let headers = (0..).zip(&layout.shards).map(|(file, shard)| {
        Segment::constant(file, 0, shard.header.len() as u64, format!("header of {}", shard.name))
    });
    let placed = layout.places.iter().zip(items);
    let tensors =
        placed.map(|(place, item)| Segment::tensor(place.shard, place.offset, place.bytes, item.planned(level)));
    headers.chain(tensors).collect()
}

/// A unit with what it needs.
fn planned(unit: u32, items: &[Item]) -> PlannedUnit {
    let mut planned = PlannedUnit::new(unit);
    let of_unit = items.iter().filter(|item| item.unit == unit);
    planned.memory_per_thread = of_unit.map(write::memory_per_thread).max().unwrap_or(0);
    planned
}

impl FormatJob for FolderJob {
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
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        let _grant = io.host().grant(memory, "rounding")?;
        let items: Vec<_> = self.items.iter().filter(|item| item.unit == unit).collect();
        write::write(io, &items)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        check::check(files, &self.layout, &self.items, &self.host)
    }
}
