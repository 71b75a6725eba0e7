//! One GGUF file, planned and made.
//!
//! It knows which tensor goes where; the families' names and keys, the mixture, the layout and the
//! kernels are in the other files.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qhost_linears::{metric, need};
use qhost_plugin_api::{
    documents::{
        Check, CheckStatus, FidelityClass, Findings, Model, OpenRequest, Output, Plan, PlannedFile, PlannedUnit,
        Segment, Survey, TensorSegment, UnitOrder,
    },
    sdk::{
        BESIDE, Failure, FilesHandle, FormatJob, FormatService, HostHandle, Result, RowJob, UnitHandle, beside_service,
        chunks,
    },
};

use crate::{
    calibrated::{self, Readers, Rounding},
    decided::Decided,
    draft::{Draft, LaidOut, Settled},
    format::BlockType,
    importance::{
        self, Input, Statistics,
        file::Matrix,
        saved::{self, ImportanceFile},
    },
    items::Content,
    mixture::Mixture,
    options::Choices,
    read,
    rows::{Source, make_rows},
    split,
    survey::{self, Measured},
    usage,
    write::{Layout, TensorInfo},
};

/// The name of the only file, by the host's convention for single-file outputs.
const FILE: &str = "";

/// A planned file.
pub struct GgufJob {
    host: HostHandle,
    plan: Plan,
    model: Model,
    /// The files with their names, in their order. What stands before the data of each is the segment of its number.
    files: Vec<(String, Layout)>,
    /// The tensors that are made from weights, by their segment.
    sources: BTreeMap<u32, Source>,
    /// The tensors that are made from the config, by their segment.
    constants: BTreeMap<u32, Vec<u8>>,
    /// How tensors are rounded under the Hessian of their inputs, if some are.
    rounding: Option<Rounding>,
    /// The importance matrix that is read, if one is.
    matrix: Option<Matrix>,
    /// The choice of types, if they are chosen by a size.
    mixture: Option<Mixture>,
    /// Whether what that depends on is to be measured yet.
    surveys: bool,
    /// The importance matrix that is saved, if one is.
    saved: Option<Arc<ImportanceFile>>,
}

impl GgufJob {
    pub(crate) fn open(request: &OpenRequest, companions: &FilesHandle, host: HostHandle) -> Result<Self> {
        let draft = Draft::new(request, companions, &host)?;
        let Settled { name, laid_out, mixture, level_bytes } = draft.settle()?;
        let Draft { choices, matrix, .. } = draft;
        let LaidOut { decided, layouts, warnings } = laid_out;
        let count = layouts.len();
        let stem = format!("{}-{name}", request.model.name);
        let named = layouts.into_iter().enumerate().map(|(number, layout)| match choices.split {
            Some(_) => (split::name(&stem, number, count), layout),
            None => (FILE.to_owned(), layout),
        });
        let named: Vec<_> = named.collect();
        let mut job = Self::plan(request, host, (&name, &choices), decided, named, warnings);
        if let Some(mixture) = &mixture {
            job.plan.survey = choices.surveys.then(|| Survey::within(mixture.limit));
        }
        job.plan.level_bytes = level_bytes;
        if choices.saves {
            job.plan.beside = vec![format!("-{name}{}", ImportanceFile::SUFFIX)];
            job.saved = Some(Arc::new(ImportanceFile::new(request.calibration.clone())));
        }
        let usage = match &job.plan.output.entry {
            Some(entry) => usage::TEXT.replace("{output}", &format!("{{output}}/{entry}")),
            None => usage::TEXT.into(),
        };
        (job.plan.usage, job.plan.library) = (Some(usage), Some(usage::LIBRARY.into()));
        job.rounding = job.rounding.filter(|_| !choices.surveys);
        (job.matrix, job.mixture, job.surveys) = (matrix, mixture, choices.surveys);
        Ok(job)
    }

    fn plan(
        request: &OpenRequest,
        host: HostHandle,
        (name, choices): (&str, &Choices),
        decided: Vec<Decided>,
        files: Vec<(String, Layout)>,
        warnings: Vec<String>,
    ) -> Self {
        let calibration = choices.calibration.as_ref();
        let headers = (0..).zip(&files);
        let headers =
            headers.map(|(file, (_, layout))| Segment::constant(file, 0, layout.header.len() as u64, "header"));
        let mut segments: Vec<_> = headers.collect();
        let placed: Vec<_> = placed(&files).collect();
        let (mut sources, mut constants) = (BTreeMap::new(), BTreeMap::new());
        let mut readers = Readers::default();
        for ((decided, (file, data_start, placed)), id) in decided.into_iter().zip(placed).zip(first_tensor(&files)..) {
            let Decided { item, choice, input, given, weighed, compensated, embeds, reading, taken, fidelity } =
                decided;
            let (row_elements, rows) = row_shape(&item.shape);
            let (offset, bytes) = (data_start + placed.offset, placed.bytes);
            segments.push(match item.content {
                Content::Weights { unit, origin } => {
                    let block_type = choice.block_type;
                    let elements = rows * row_elements;
                    let mut made =
                        TensorSegment::new(item.name, unit, origin.tensors.clone(), block_type.name(), elements);
                    made.fallback = choice.instead_of.map(|wanted| fallback(wanted, row_elements));
                    made.instead_of = choice.instead_of.map(|wanted| wanted.name().into());
                    made.cost = Some(match (&taken, calibration) {
                        // Nothing is searched for.
                        (Some(_), _) => BlockType::Q8_0.cost(),
                        (None, Some(calibration)) if compensated => {
                            calibrated::cost(block_type, row_elements, calibration.effort)
                        }
                        (None, _) if weighed => block_type.weighted_cost(),
                        (None, _) => block_type.cost(),
                    });
                    let measured = choices.surveys.then(|| survey::cost(rows * row_elements, weighed));
                    made.cost = made.cost.map(|cost| cost + measured.unwrap_or(0.0));
                    let is = |class| fidelity.as_ref().is_some_and(|fidelity| fidelity.class == class);
                    made.expected_error = is(FidelityClass::Requantised).then(|| block_type.expected_error());
                    let exact = is(FidelityClass::Exact);
                    made.takes = taken.as_ref().map(|taken| taken.encoding.clone());
                    made.fidelity = fidelity;
                    let taken = taken.map(|taken| (taken.encoding, exact));
                    let source = Source {
                        origin,
                        unit,
                        rows,
                        row_elements,
                        block_type,
                        input,
                        given,
                        weighed,
                        compensated,
                        embeds,
                        taken,
                    };
                    if let Some(reading) = reading {
                        readers.push(reading, source.clone());
                    }
                    sources.insert(id, source);
                    Segment::tensor(file, offset, bytes, made)
                }
                Content::Computed(numbers) => {
                    constants.insert(id, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
                    Segment::constant(file, offset, bytes, item.name)
                }
            });
        }
        let units =
            request.model.units.iter().filter_map(|unit| planned_unit(&request.model, unit.id, &sources, choices));
        let output = match files.first().filter(|_| choices.split.is_some()) {
            Some((first, _)) => Output::folder(format!("-{name}")).entered_by(&**first),
            None => Output::file(format!("-{name}.gguf")),
        };
        let mut plan = Plan::new(&*request.format, name, output);
        plan.files = files.iter().map(|(name, layout)| PlannedFile::new(&**name, layout.file_bytes)).collect();
        plan.segments = segments;
        plan.units = units.collect();
        let asks = plan.units.iter().any(|unit| !unit.statistics.is_empty());
        plan.order = if asks { UnitOrder::Sequential } else { UnitOrder::Independent };
        plan.warnings = warnings;
        let rounding = choices.calibration.map(|calibration| Rounding { calibration, readers });
        Self {
            host,
            plan,
            model: request.model.clone(),
            files,
            sources,
            constants,
            rounding,
            matrix: None,
            mixture: None,
            surveys: false,
            saved: None,
        }
    }
}

impl FormatJob for GgufJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        if let Some((_, layout)) = self.files.get(segment as usize) {
            return Ok(Cow::Borrowed(&layout.header));
        }
        let bytes = self.constants.get(&segment);
        bytes
            .map(|bytes| Cow::Borrowed(&**bytes))
            .ok_or_else(|| Failure::internal(format!("segment {segment} is not constant")))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        let of_unit = || self.sources.iter().filter(|(_, source)| source.unit == unit);
        let names: Vec<_> = placed(&self.files).map(|(.., tensor)| tensor.name.as_str()).collect();
        let name = |segment: u32| names[(segment - first_tensor(&self.files)) as usize];
        let compensated: Vec<_> = of_unit()
            .filter(|(_, source)| source.compensated)
            .map(|(segment, source)| (*segment, name(*segment), source))
            .collect();
        // Whoever computes for it asks for that part itself.
        let of_arithmetic = self.rounding.as_ref().map_or(0, |rounding| {
            let sources: Vec<_> = compensated.iter().map(|(_, _, source)| *source).collect();
            calibrated::memory(&self.model, &sources, rounding.calibration.corrects).1
        });
        let _grant = io.host().grant(memory.saturating_sub(of_arithmetic), "quantising")?;
        let sources: Vec<_> = of_unit().filter(|(_, source)| !source.compensated).collect();
        let mut statistics = Statistics::default();
        let columns: Vec<Vec<_>> = sources
            .iter()
            .map(|(segment, source)| match (&source.input, source.given, &self.matrix) {
                (Some(input), ..) => statistics.of(io, input, source.row_elements),
                (None, Some(matrices), Some(matrix)) => matrix.read(name(**segment), matrices, source.row_elements),
                _ => Ok(Vec::new()),
            })
            .collect::<Result<_>>()?;
        if let Some(mixture) = self.mixture.as_ref().filter(|_| self.surveys) {
            let measured = sources.iter().zip(&columns).filter_map(|((segment, source), columns)| {
                let name = name(**segment);
                Some(Measured { name, source, columns, types: mixture.types_of(name)? })
            });
            return survey::survey_unit(io, unit, &measured.collect::<Vec<_>>());
        }
        let jobs: Vec<_> = sources
            .iter()
            .zip(&columns)
            .map(|((segment, source), columns)| RowJob {
                item: (**segment, *source, if source.weighed { columns.as_slice() } else { &[] }),
                rows: source.rows,
                row_elements: source.row_elements,
                granule: source.origin.granule(source.rows, source.row_elements),
            })
            .collect();
        let chunks = chunks(&jobs);
        let sums = io.host().parallel_map(chunks.len(), |index| {
            let (segment, source, columns) = *chunks[index].item;
            make_rows(io, segment, source, columns, &chunks[index].rows)
        })?;
        // Added up in the order of the chunks, so that the figure does not depend on the threads.
        let mut totals: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (chunk, (errors, squares)) in chunks.iter().zip(sums) {
            let total = totals.entry(chunk.item.0).or_default();
            *total = (total.0 + errors, total.1 + squares);
        }
        if self.saved.is_some() {
            let gathered = sources.iter().zip(&columns).filter(|(_, columns)| !columns.is_empty());
            let gathered = gathered.map(|((segment, _), columns)| (name(**segment), columns.as_slice()));
            io.save(&ImportanceFile::key(unit), &saved::record(gathered))?;
        }
        for (segment, (errors, squares)) in totals {
            io.metric(segment, metric::RELATIVE_ERROR, if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 });
        }
        if let Some(mixture) = &self.mixture {
            for (&segment, _) in of_unit() {
                for (block_type, loss) in mixture.losses_of(name(segment)) {
                    io.metric(segment, &format!("measured_loss_{}", block_type.name()), loss);
                }
            }
        }
        match &self.rounding {
            Some(rounding) => calibrated::make_unit(io, &self.model, rounding, &compensated),
            None => Ok(()),
        }
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        let saved = self.saved.as_ref().filter(|_| name == BESIDE)?;
        Some(beside_service(Arc::<ImportanceFile>::clone(saved)))
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let mut checks = Vec::new();
        for (name, layout) in &self.files {
            for check in read::check(files, (name, layout), &self.host)? {
                let same = checks.iter_mut().find(|other: &&mut Check| other.name == check.name);
                match same {
                    // What is wrong with one of several files is wrong with all.
                    Some(other) if other.status != CheckStatus::Failed => *other = check,
                    Some(_) => {}
                    None => checks.push(check),
                }
            }
        }
        Ok(Findings::new(checks))
    }
}

/// What a unit needs; nothing if it makes no tensor.
fn planned_unit(model: &Model, unit: u32, sources: &BTreeMap<u32, Source>, choices: &Choices) -> Option<PlannedUnit> {
    let of_unit = || sources.values().filter(|source: &&Source| source.unit == unit);
    let mut planned = PlannedUnit::new(unit);
    planned.memory_per_thread = of_unit().map(Source::chunk_memory).max()?;
    if choices.surveys {
        let per_thread = of_unit().map(survey::memory_per_thread).max().unwrap_or(0);
        planned.memory_per_thread = planned.memory_per_thread.max(per_thread);
    }
    if let Some(calibration) = choices.calibration.as_ref().filter(|_| !choices.surveys) {
        let compensated: Vec<_> = of_unit().filter(|source| source.compensated).collect();
        let (own, of_arithmetic) = calibrated::memory(model, &compensated, calibration.corrects);
        planned.memory = own + of_arithmetic;
        let per_thread = calibrated::memory_per_thread(&compensated);
        planned.memory_per_thread = planned.memory_per_thread.max(per_thread);
        let inputs = compensated.iter().filter_map(|source| source.input.as_ref());
        let groups: BTreeSet<_> = inputs.map(Input::group).collect();
        planned.statistics = groups.iter().map(|group| need(group, calibration)).collect();
        planned.replays = !planned.statistics.is_empty();
    } else {
        let inputs = || of_unit().filter_map(|source| Some((source.input.as_ref()?, source.row_elements)));
        let given = of_unit().filter_map(|source| Some(source.given? * source.row_elements * 4));
        planned.memory = importance::memory(inputs()).saturating_add(given.sum());
        planned.statistics = importance::needs(inputs().map(|(input, _)| input));
    }
    Some(planned)
}

/// The segment of the first tensor: those before it are of headers.
fn first_tensor(files: &[(String, Layout)]) -> u32 {
    u32::try_from(files.len()).unwrap_or(u32::MAX)
}

/// All tensors in their order, each with its file and where the data begin there.
fn placed(files: &[(String, Layout)]) -> impl Iterator<Item = (u32, u64, &TensorInfo)> {
    (0..).zip(files).flat_map(|(file, (_, layout))| {
        layout.tensors.iter().map(move |tensor| (file, layout.header.len() as u64, tensor))
    })
}

/// The length of a row, and the number of rows.
pub(crate) fn row_shape(shape: &[u64]) -> (u64, u64) {
    shape.split_last().map_or((1, 1), |(row, outer)| (*row, outer.iter().product()))
}

fn fallback(wanted: BlockType, row_elements: u64) -> String {
    format!("rows of {row_elements} are no whole blocks of {} for {}", wanted.block_elements(), wanted.name())
}
