//! A plugin for tests: its file holds what the host tells of the inputs of every linear.
//!
//! For every linear in the order of the model (of experts in one tensor, for each of them): the tokens as a `u64`
//! and whether they are all tokens as another, then the means of squares and of magnitudes in `f32`, the Gram matrix
//! in `f32` or `f64`, and a sample of rows in `f32`. With `cross=true` comes what the original model has more: `cross`
//! and `residual` in `f32`, with zeros where there is none.

use std::borrow::Cow;

use qhost_plugin_api::{
    documents::{
        Description, Findings, FormatDescription, InputGroup, LevelDescription, OpenRequest, Output, Part, Plan,
        PlannedFile, PlannedUnit, Precision, Scarce, Segment, SourceTensor, Statistic, StatisticsNeed, TensorSegment,
        UnitOrder, UnusedTensor,
    },
    sdk::{Failure, FilesHandle, Format, FormatJob, HostHandle, Result, UnitHandle},
};

const LEVEL: &str = "all";

/// The plugin.
pub struct Observe;

impl Format for Observe {
    type Job = Job;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        Description::new(vec![FormatDescription::new("observe", vec![LevelDescription::new(LEVEL, "all of it", 1.0)])])
    }

    fn open(&self, request: OpenRequest, _companions: FilesHandle) -> Result<Job> {
        let option = |key: &str| request.options.plugin.get(key).map(String::as_str);
        let number = |key: &str| option(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        let settings = Settings {
            double: option("precision") == Some("double"),
            replays: option("halve") == Some("true"),
            fewest: number("fewest"),
            sample: number("sample"),
            stream: if option("cross") == Some("true") { request.model.hyperparameters.hidden_size } else { 0 },
        };
        let mut plan = Plan::new(request.format, LEVEL, Output::file("-observed"));
        let mut looks = Vec::new();
        let mut end = 0;
        for (id, tensor) in (0..).zip(&request.model.tensors) {
            let group = InputGroup::of(&tensor.role.kind).filter(|_| tensor.role.part == Part::Weight);
            let Some(group) = group else {
                plan.unused.push(UnusedTensor::new(id, "it is no linear"));
                continue;
            };
            for expert in experts(tensor) {
                let look = Look { tensor: id, unit: tensor.unit, group: group.clone(), expert, width: width(tensor) };
                let bytes = settings.bytes(look.width);
                let name = format!("{} {expert:?}", tensor.name);
                let made = TensorSegment::new(name, tensor.unit, vec![id], "observed", tensor.elements());
                plan.segments.push(Segment::tensor(0, end, bytes, made));
                end += bytes;
                looks.push(look);
            }
        }
        plan.files.push(PlannedFile::single(end));
        for unit in &request.model.units {
            let mut planned = PlannedUnit::new(unit.id);
            let mut groups: Vec<_> = looks.iter().filter(|look| look.unit == unit.id).map(|look| &look.group).collect();
            groups.sort_unstable();
            groups.dedup();
            planned.statistics = groups.into_iter().map(|group| settings.need(group.clone())).collect();
            planned.replays = settings.replays;
            plan.units.push(planned);
        }
        plan.order = UnitOrder::Sequential;
        Ok(Job { plan, looks, settings })
    }
}

/// What the options say.
struct Settings {
    double: bool,
    /// Whether every linear is halved once it is written down.
    replays: bool,
    fewest: u64,
    sample: u64,
    /// Numbers in the residual stream, if the original model is compared with; else 0.
    stream: u64,
}

impl Settings {
    fn need(&self, group: InputGroup) -> StatisticsNeed {
        let mut what = vec![Statistic::MeanSquare, Statistic::MeanAbs, Statistic::Gram];
        what.extend((self.sample > 0).then_some(Statistic::Sample));
        if self.stream > 0 {
            what.extend([Statistic::Cross, Statistic::Residual]);
        }
        let mut need = StatisticsNeed::new(group, what);
        need.precision = if self.double { Precision::Double } else { Precision::Single };
        need.sample_rows = self.sample;
        need.fewest_tokens = self.fewest;
        need.scarce = Scarce::AllTokens;
        need
    }

    fn bytes(&self, width: u64) -> u64 {
        let gram = width * width * if self.double { 8 } else { 4 };
        16 + 2 * width * 4 + gram + self.sample * width * 4 + self.of_original(width) * 4
    }

    /// Numbers of what the original model has more.
    fn of_original(&self, width: u64) -> u64 {
        if self.stream > 0 { (width + self.stream) * width } else { 0 }
    }
}

/// The input of a linear.
struct Look {
    tensor: u32,
    unit: u32,
    group: InputGroup,
    expert: Option<u32>,
    width: u64,
}

fn experts(tensor: &SourceTensor) -> Vec<Option<u32>> {
    match tensor.shape.as_slice() {
        [experts, _, _] => (0..u32::try_from(*experts).unwrap_or(0)).map(Some).collect(),
        _ => vec![tensor.role.expert],
    }
}

/// The inputs of a linear.
fn width(tensor: &SourceTensor) -> u64 {
    match tensor.shape.as_slice() {
        [.., inputs, _] if tensor.transposed => *inputs,
        _ => tensor.row_elements(),
    }
}

/// A planned file.
pub struct Job {
    plan: Plan,
    looks: Vec<Look>,
    settings: Settings,
}

impl Job {
    fn record(&self, look: &Look, io: &UnitHandle) -> Result<Vec<u8>> {
        let mut record = Vec::new();
        for what in [Statistic::MeanSquare, Statistic::MeanAbs, Statistic::Gram, Statistic::Sample] {
            if what == Statistic::Sample && self.settings.sample == 0 {
                continue;
            }
            let answer = io.statistic(look.group.clone(), what, look.expert)?;
            if record.is_empty() {
                record.extend(answer.tokens.to_le_bytes());
                record.extend(u64::from(answer.all_tokens).to_le_bytes());
            }
            if answer.rows > 0 {
                record.extend(io.rows(answer.tensor, 0, answer.rows)?.bytes());
            }
        }
        // Fewer rows than were asked for leave zeros.
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| Failure::internal("too large"));
        let bytes = size(self.settings.bytes(look.width))?;
        let of_original = size(self.settings.of_original(look.width) * 4)?;
        record.resize(bytes - of_original, 0);
        if of_original > 0 {
            let rows = [(Statistic::Cross, look.width), (Statistic::Residual, self.settings.stream)];
            for (what, rows) in rows {
                let end = record.len() + size(rows * look.width * 4)?;
                let answer = io.statistic(look.group.clone(), what, look.expert)?;
                if answer.rows > 0 {
                    record.extend(io.rows(answer.tensor, 0, answer.rows)?.bytes());
                }
                record.resize(end, 0);
            }
        }
        Ok(record)
    }

    /// Halves a linear, and checks what that changes.
    fn halve(look: &Look, io: &UnitHandle) -> Result<()> {
        let mut weights = Vec::new();
        let mut first = 0;
        let mut part = Vec::new();
        // Row by row until there are no more.
        while let Ok(rows) = io.rows(look.tensor, first, 1) {
            rows.widen(&mut part)?;
            weights.extend(part.iter().map(|weight| weight * 0.5));
            first += 1;
        }
        io.substitute(look.tensor, Some(&weights))
    }
}

impl FormatJob for Job {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, _segment: u32) -> Result<Cow<'_, [u8]>> {
        Err(Failure::internal("there are no constants"))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        for (segment, look) in (0..).zip(&self.looks).filter(|(_, look)| look.unit == unit) {
            io.write(segment, 0, &self.record(look, io)?)?;
            if self.settings.replays && look.group != InputGroup::OutputIn {
                Self::halve(look, io)?;
            }
        }
        if self.settings.replays && self.looks.iter().any(|look| look.unit == unit && look.group == InputGroup::FfnMid)
        {
            let loss = io.loss(Some(1))?;
            let segment = self.looks.iter().position(|look| look.unit == unit).unwrap_or(0);
            io.metric(u32::try_from(segment).unwrap_or(0), "loss", loss.mean_square / loss.original);
        }
        Ok(())
    }

    fn check(&self, _files: &FilesHandle) -> Result<Findings> {
        Ok(Findings::new(Vec::new()))
    }
}

qhost_plugin_api::export_plugin! {
    id: "observe",
    summary: "What the host tells of activations",
    api: "^1.0",
    formats: [{ id: "observe", summary: "Statistics of every linear's input", levels: ["all"] }],
    plugin: Observe,
}
