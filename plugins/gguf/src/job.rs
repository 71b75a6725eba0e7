//! One GGUF file, planned and made.
//!
//! It knows which tensor goes where; the families' names and keys, the mixture, the layout and the
//! kernels are in the other files.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qhost_linears::{Calibration, check_host, metric, need};
use qhost_plugin_api::{
    documents::{
        FidelityClass, Findings, Model, OpenRequest, Output, Plan, PlannedFile, PlannedUnit, Segment, TensorSegment,
        UnitOrder,
    },
    sdk::{
        BESIDE, Failure, FilesHandle, FormatJob, FormatService, HostHandle, Result, RowJob, STATISTICS, UnitHandle,
        beside_service, chunks,
    },
};

use crate::{
    calibrated::{self, Readers, Rounding},
    conversion,
    decided::Decided,
    fallbacks,
    families::{self, Family},
    format::{BlockType, Level},
    general::{Parameters, general},
    importance::{
        self, Input, Statistics,
        file::Matrix,
        saved::{self, ImportanceFile},
    },
    items::{self, Content, Item},
    keys_given, name_trap,
    options::{Choices, DEFAULT_LEVEL, Imatrix},
    read,
    recipe::{self, Choice, ModelFacts},
    rows::{Source, make_rows},
    tokenizer, usage,
    write::{self, Layout, Unplaced},
};

/// The version of ggml's quantised formats that the bytes follow.
const QUANTIZATION_VERSION: u32 = 2;
/// The segment of everything before the tensor data.
const HEADER_SEGMENT: u32 = 0;
/// The name of the only file, by the host's convention for single-file outputs.
const FILE: &str = "";

/// A planned file.
pub struct GgufJob {
    host: HostHandle,
    plan: Plan,
    model: Model,
    layout: Layout,
    /// The tensors that are made from weights, by their segment.
    sources: BTreeMap<u32, Source>,
    /// The tensors that are made from the config, by their segment.
    constants: BTreeMap<u32, Vec<u8>>,
    /// How tensors are rounded under the Hessian of their inputs, if some are.
    rounding: Option<Rounding>,
    /// The importance matrix that is read, if one is.
    matrix: Option<Matrix>,
    /// The importance matrix that is saved, if one is.
    saved: Option<Arc<ImportanceFile>>,
}

impl GgufJob {
    pub(crate) fn open(request: &OpenRequest, companions: &FilesHandle, host: HostHandle) -> Result<Self> {
        let model = &request.model;
        let choices = Choices::read(request)?;
        let matrix = choices.matrix(companions)?;
        let asked = choices.level;
        let family = families::family_of(model)?;
        let (items, of_items) = items::items(model, family)?;
        let counted = Parameters::of(items.iter().map(|item| (item.name.as_str(), item.shape.as_slice())));
        let mut of_card = Vec::new();
        let general = general(model, companions, counted, &mut of_card)?;
        let (mut metadata, mut warnings) = families::metadata(model, family, general)?;
        warnings.extend(of_card);
        warnings.extend(of_items);
        let vocabulary = model.hyperparameters.vocab_size;
        let _grant = host.grant(tokenizer::memory(companions, vocabulary), "reading the tokenizer")?;
        let tokenizer = tokenizer::tokenizer_metadata(companions, vocabulary, &model.config, choices.pre.as_deref())?;
        metadata.append(tokenizer.metadata)?;
        warnings.extend(tokenizer.warnings);
        warnings.extend(name_trap::avoid(&mut metadata));
        let gentlest = match (asked, &request.conversion) {
            (None, Some(conversion)) if choices.types.is_empty() => conversion::gentlest(&items, model, conversion)?,
            _ => None,
        };
        let (level, types) = match (gentlest, asked.or_else(|| Level::named(DEFAULT_LEVEL))) {
            (Some(gentlest), _) => gentlest,
            (None, Some(level)) => (level, choose(level, model, family, &items, &choices)?),
            (None, None) => return Err(Failure::internal("there is no default level")),
        };
        let shapes: Vec<_> = items.iter().map(|item| row_shape(&item.shape)).collect();
        let other = |level: &'static Level| Ok((level.name, choose(level, model, family, &items, &choices)?));
        let others: Vec<_> = crate::format::LEVELS.iter().map(other).collect::<Result<_>>()?;
        warnings.extend(choices.types.unmatched(items.iter().filter(quantised).map(|item| item.name.as_str())));
        let decided = Decided::all(items, &types, request, &choices, matrix.as_ref())?;
        let entries = decided.iter().filter(|decided| decided.weighed || decided.compensated).count();
        warnings.extend(without_importances(&decided, level, &choices.imatrix, matrix.as_ref())?);
        let needs_model = matrix.is_none() && entries > 0;
        if let Some(calibration) = choices.calibration.as_ref().filter(|_| entries > 0) {
            check_host(host.facts(), "a calibrated file", calibration)?;
        }
        if (needs_model || choices.saves) && !host.facts().services.iter().any(|service| service == STATISTICS) {
            return Err(Failure::unsupported("this qhost does not run models, which importances need")
                .about("--imatrix auto")
                .hint("use a newer qhost, or leave --imatrix out"));
        }
        // Last, and in this order, as llama.cpp's quantiser leaves them.
        metadata.push("general.quantization_version", QUANTIZATION_VERSION)?;
        metadata.push("general.file_type", level.file_type)?;
        keys_given::put(&mut metadata, &choices.keys)?;
        if let (Some(matrix), Imatrix::File { name, .. }) = (&matrix, &choices.imatrix) {
            importance::push_keys_of_file(&mut metadata, name, matrix)?;
        } else if entries > 0 {
            importance::push_keys(&mut metadata, entries, request.calibration.as_ref())?;
            if let Some(calibration) = &choices.calibration {
                calibrated::push_keys(&mut metadata, calibration, &host.facts().version)?;
            }
        }
        let unplaced = decided.iter().map(|decided| Unplaced {
            name: decided.item.name.clone(),
            shape: decided.item.shape.clone(),
            block_type: decided.choice.block_type,
        });
        let layout = write::lay_out(&metadata, unplaced.collect())?;
        let other = |level: &Level| {
            others.iter().find(|(name, _)| *name == level.name).map(|(_, choices)| choices.clone()).unwrap_or_default()
        };
        let judged = fallbacks::judge(level, &shapes, &types, layout.file_bytes, model.parameters(), other);
        warnings.extend(judged.warning);
        let mut job = Self::plan(request, level, host, (decided, choices.calibration), layout, warnings);
        job.matrix = matrix;
        job.plan.level_bytes = judged.level_bytes;
        if choices.saves {
            job.plan.beside = vec![format!("-{}{}", level.name, ImportanceFile::SUFFIX)];
            job.saved = Some(Arc::new(ImportanceFile::new(request.calibration.clone())));
        }
        (job.plan.usage, job.plan.library) = (Some(usage::TEXT.into()), Some(usage::LIBRARY.into()));
        Ok(job)
    }

    fn plan(
        request: &OpenRequest,
        level: &Level,
        host: HostHandle,
        (decided, calibration): (Vec<Decided>, Option<Calibration>),
        layout: Layout,
        warnings: Vec<String>,
    ) -> Self {
        let data_start = layout.header.len() as u64;
        let mut segments = vec![Segment::constant(0, 0, data_start, "header")];
        let (mut sources, mut constants) = (BTreeMap::new(), BTreeMap::new());
        let mut readers = Readers::default();
        for ((decided, placed), id) in decided.into_iter().zip(&layout.tensors).zip(HEADER_SEGMENT + 1..) {
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
                    made.cost = Some(match (&taken, &calibration) {
                        // Nothing is searched for.
                        (Some(_), _) => BlockType::Q8_0.cost(),
                        (None, Some(calibration)) if compensated => {
                            calibrated::cost(block_type, row_elements, calibration.effort)
                        }
                        (None, _) if weighed => block_type.weighted_cost(),
                        (None, _) => block_type.cost(),
                    });
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
                    Segment::tensor(0, offset, bytes, made)
                }
                Content::Computed(numbers) => {
                    constants.insert(id, numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
                    Segment::constant(0, offset, bytes, item.name)
                }
            });
        }
        let units = request.model.units.iter().filter_map(|unit| {
            let of_unit = || sources.values().filter(|source: &&Source| source.unit == unit.id);
            let mut planned = PlannedUnit::new(unit.id);
            planned.memory_per_thread = of_unit().map(Source::chunk_memory).max()?;
            if let Some(calibration) = &calibration {
                let compensated: Vec<_> = of_unit().filter(|source| source.compensated).collect();
                let (own, of_arithmetic) = calibrated::memory(&request.model, &compensated, calibration.corrects);
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
        });
        let mut plan = Plan::new(&*request.format, level.name, Output::file(format!("-{}.gguf", level.name)));
        plan.files = vec![PlannedFile::single(layout.file_bytes)];
        plan.segments = segments;
        plan.units = units.collect();
        let asks = plan.units.iter().any(|unit| !unit.statistics.is_empty());
        plan.order = if asks { UnitOrder::Sequential } else { UnitOrder::Independent };
        plan.warnings = warnings;
        let rounding = calibration.map(|calibration| Rounding { calibration, readers });
        Self {
            host,
            plan,
            model: request.model.clone(),
            layout,
            sources,
            constants,
            rounding,
            matrix: None,
            saved: None,
        }
    }
}

impl FormatJob for GgufJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        if segment == HEADER_SEGMENT {
            return Ok(Cow::Borrowed(&self.layout.header));
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
        let name = |segment: u32| self.layout.tensors[segment as usize - 1].name.as_str();
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
        let checks = read::check(files, FILE, &self.layout, &self.host)?;
        Ok(Findings::new(checks))
    }
}

/// Whether a level has its say about a tensor.
fn quantised(item: &&Item) -> bool {
    !recipe::stays_f32(&(*item).into())
}

/// What there is to say of tensors without importances.
///
/// # Errors
/// Fails with kind `USAGE` when an importance matrix is of another model altogether.
fn without_importances(
    decided: &[Decided],
    level: &Level,
    imatrix: &Imatrix,
    matrix: Option<&Matrix>,
) -> Result<Option<String>> {
    if *imatrix == Imatrix::None {
        return Ok(None);
    }
    if !decided.iter().any(|decided| decided.choice.block_type.uses_importance()) {
        return Ok(Some(format!("no tensor at {} depends on importances: --imatrix changes nothing", level.name)));
    }
    let Some(matrix) = matrix else { return Ok(None) };
    if !matrix.names().any(|name| decided.iter().any(|decided| decided.item.name == name)) {
        return Err(Failure::usage("no entry of the importance matrix is of a tensor of this model")
            .about("--imatrix")
            .hint("make one from this model, or leave --imatrix out"));
    }
    // llama-imatrix has no entries of what is in no block.
    let missing = decided.iter().filter(|decided| {
        let uses = decided.choice.block_type.uses_importance() && decided.taken.is_none();
        uses && !decided.weighed && decided.item.name.starts_with("blk.")
    });
    let missing: Vec<_> = missing.map(|decided| decided.item.name.as_str()).collect();
    Ok(missing.first().map(|first| {
        let count = missing.len();
        format!("{count} tensors are not in the importance matrix, such as {first}: they are quantised without")
    }))
}

/// The types of all tensors at a level.
///
/// # Errors
/// Fails as [`recipe::choose`].
fn choose(level: &Level, model: &Model, family: &Family, items: &[Item], choices: &Choices) -> Result<Vec<Choice>> {
    let sizes = &model.hyperparameters;
    let facts = ModelFacts {
        layers: sizes.layers,
        grouped_heads: if sizes.latent_attention.is_some() {
            // llama.cpp sees one key/value head.
            sizes.heads
        } else {
            sizes.heads / sizes.kv_heads.max(1)
        },
        is_70b: (family.is_70b)(sizes),
        experts: sizes.experts.as_ref().map_or(0, |experts| experts.count),
        has_importances: choices.imatrix != Imatrix::None,
    };
    let shapes: Vec<_> = items.iter().map(Into::into).collect();
    recipe::choose(level, facts, &choices.types, &shapes, &|place| conversion::as_it_comes(&items[place], model))
}

/// The length of a row, and the number of rows.
fn row_shape(shape: &[u64]) -> (u64, u64) {
    shape.split_last().map_or((1, 1), |(row, outer)| (*row, outer.iter().product()))
}

fn fallback(wanted: BlockType, row_elements: u64) -> String {
    format!("rows of {row_elements} are no whole blocks of {} for {}", wanted.block_elements(), wanted.name())
}
