//! One GGUF file, planned and made.
//!
//! It knows which tensor goes where; the families' names and keys, the mixture, the layout and the
//! kernels are in the other files.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use qhost_plugin_api::{
    documents::{
        Encoding, Fidelity, FidelityClass, Findings, Model, OpenRequest, Options, Output, Plan, PlannedFile,
        PlannedUnit, Segment, TensorSegment, UnitOrder,
    },
    sdk::{
        BESIDE, CHUNK_WEIGHTS, Failure, FilesHandle, FormatJob, FormatService, HostHandle, Result, RowJob, STATISTICS,
        UnitHandle, beside_service, chunks, with_scratch,
    },
};

use crate::{
    arrange::{Origin, in_memory},
    conversion::{self, Taken},
    fallbacks,
    families::{self, Family},
    format::{BlockType, Level},
    general::{Parameters, general},
    importance::{self, Gathered, Input, Statistics},
    importance_file::{self, ImportanceFile},
    items::{self, Content, Item},
    name_trap, read,
    recipe::{self, Choice, ModelFacts},
    tokenizer, usage,
    write::{self, Layout, Unplaced},
};

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: &str = "Q4_K_M";
/// The `--plugin-option` that names the pre-tokenizer.
pub(crate) const PRE_OPTION: &str = "pre";
/// The `--plugin-option` that saves the importance matrix.
pub(crate) const SAVE_OPTION: &str = "save-imatrix";
/// The version of ggml's quantised formats that the bytes follow.
const QUANTIZATION_VERSION: u32 = 2;
/// The segment of everything before the tensor data.
const HEADER_SEGMENT: u32 = 0;
/// The name of the only file, by the host's convention for single-file outputs.
const FILE: &str = "";
/// The only metric: the root of the summed squared errors over that of the summed squares.
pub(crate) const RELATIVE_ERROR: &str = "relative_rms_error";

/// A planned file.
pub struct GgufJob {
    host: HostHandle,
    plan: Plan,
    layout: Layout,
    /// The tensors that are made from weights, by their segment.
    sources: BTreeMap<u32, Source>,
    /// The tensors that are made from the config, by their segment.
    constants: BTreeMap<u32, Vec<u8>>,
    /// The importance matrix that is saved, if one is.
    saved: Option<Arc<ImportanceFile>>,
}

/// How a tensor of the file is made from the checkpoint.
#[derive(Debug, Clone)]
struct Source {
    origin: Origin,
    unit: u32,
    rows: u64,
    row_elements: u64,
    block_type: BlockType,
    /// What is gathered of its columns.
    input: Option<Input>,
    /// Whether they are weighed by that.
    weighed: bool,
    /// The encoding in which its rows are taken, if not as floats, and whether nothing is lost then.
    taken: Option<(Encoding, bool)>,
}

/// A tensor of the file with all that was decided about it.
struct Decided {
    item: Item,
    choice: Choice,
    input: Option<Input>,
    weighed: bool,
    taken: Option<Taken>,
    /// What a conversion does to its numbers.
    fidelity: Option<Fidelity>,
}

impl Decided {
    /// Decides about all tensors; `importances` tells whether columns are weighed, and whether all that is gathered is
    /// saved.
    fn all(items: Vec<Item>, choices: &[Choice], request: &OpenRequest, (weighed, saves): (bool, bool)) -> Vec<Self> {
        let model = &request.model;
        let decided = items.into_iter().zip(choices).map(|(item, choice)| {
            let conversion = request.conversion.as_ref();
            let block_type = choice.block_type;
            let taken = conversion.and_then(|conversion| conversion::taken(&item, block_type, conversion));
            let uses = weighed && block_type.uses_importance() && taken.is_none();
            let fidelity = conversion.map(|_| match &taken {
                Some(taken) => taken.fidelity.clone(),
                None => conversion::of_floats(&item, block_type, model),
            });
            let input = Input::of(&item, model).filter(|_| uses || saves);
            Self { choice: choice.clone(), weighed: uses && input.is_some(), input, taken, fidelity, item }
        });
        decided.collect()
    }
}

impl GgufJob {
    pub(crate) fn open(request: &OpenRequest, companions: &FilesHandle, host: HostHandle) -> Result<Self> {
        let model = &request.model;
        let asked = level(&request.options)?;
        let weighed = imatrix_option(&request.options)?;
        let (pre, saves) = plugin_options(&request.options, weighed)?;
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
        let tokenizer = tokenizer::tokenizer_metadata(companions, vocabulary, &model.config, pre)?;
        metadata.append(tokenizer.metadata)?;
        warnings.extend(tokenizer.warnings);
        warnings.extend(name_trap::avoid(&mut metadata));
        let gentlest = match (asked, &request.conversion) {
            (None, Some(conversion)) => conversion::gentlest(&items, model, conversion)?,
            _ => None,
        };
        let (level, choices) = match (gentlest, asked.or_else(|| Level::named(DEFAULT_LEVEL))) {
            (Some(gentlest), _) => gentlest,
            (None, Some(level)) => (level, choose(level, model, family, &items, weighed)),
            (None, None) => return Err(Failure::internal("there is no default level")),
        };
        let shapes: Vec<_> = items.iter().map(|item| row_shape(&item.shape)).collect();
        let other = |level: &Level| choose(level, model, family, &items, weighed);
        let others: Vec<_> = crate::format::LEVELS.iter().map(|level| (level.name, other(level))).collect();
        let decided = Decided::all(items, &choices, request, (weighed, saves));
        let entries = decided.iter().filter(|decided| decided.weighed).count();
        if weighed && entries == 0 {
            warnings.push(format!("no tensor at {} depends on importances: --imatrix changes nothing", level.name));
        }
        if (entries > 0 || saves) && !host.facts().services.iter().any(|service| service == STATISTICS) {
            return Err(Failure::unsupported("this qhost does not run models, which importances need")
                .about("--imatrix auto")
                .hint("use a newer qhost, or leave --imatrix out"));
        }
        // Last, and in this order, as llama.cpp's quantiser leaves them.
        metadata.push("general.quantization_version", QUANTIZATION_VERSION)?;
        metadata.push("general.file_type", level.file_type)?;
        if entries > 0 {
            importance::push_keys(&mut metadata, entries, request.calibration.as_ref())?;
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
        let judged = fallbacks::judge(level, &shapes, &choices, layout.file_bytes, model.parameters(), other);
        warnings.extend(judged.warning);
        let mut job = Self::plan(request, level, host, decided, layout, warnings);
        job.plan.level_bytes = judged.level_bytes;
        if saves {
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
        decided: Vec<Decided>,
        layout: Layout,
        warnings: Vec<String>,
    ) -> Self {
        let data_start = layout.header.len() as u64;
        let mut segments = vec![Segment::constant(0, 0, data_start, "header")];
        let (mut sources, mut constants) = (BTreeMap::new(), BTreeMap::new());
        for ((decided, placed), id) in decided.into_iter().zip(&layout.tensors).zip(HEADER_SEGMENT + 1..) {
            let Decided { item, choice, input, weighed, taken, fidelity } = decided;
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
                    made.cost = Some(match (&taken, weighed) {
                        // Nothing is searched for.
                        (Some(_), _) => BlockType::Q8_0.cost(),
                        (None, true) => block_type.weighted_cost(),
                        (None, false) => block_type.cost(),
                    });
                    let is = |class| fidelity.as_ref().is_some_and(|fidelity| fidelity.class == class);
                    made.expected_error = is(FidelityClass::Requantised).then(|| block_type.expected_error());
                    let exact = is(FidelityClass::Exact);
                    made.takes = taken.as_ref().map(|taken| taken.encoding.clone());
                    made.fidelity = fidelity;
                    let taken = taken.map(|taken| (taken.encoding, exact));
                    let source = Source { origin, unit, rows, row_elements, block_type, input, weighed, taken };
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
            let inputs = || of_unit().filter_map(|source| Some((source.input.as_ref()?, source.row_elements)));
            planned.memory = importance::memory(inputs());
            planned.statistics = importance::needs(inputs().map(|(input, _)| input));
            Some(planned)
        });
        let mut plan = Plan::new(&*request.format, level.name, Output::file(format!("-{}.gguf", level.name)));
        plan.files = vec![PlannedFile::single(layout.file_bytes)];
        plan.segments = segments;
        plan.units = units.collect();
        let asks = plan.units.iter().any(|unit| !unit.statistics.is_empty());
        plan.order = if asks { UnitOrder::Sequential } else { UnitOrder::Independent };
        plan.warnings = warnings;
        Self { host, plan, layout, sources, constants, saved: None }
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
        let _grant = io.host().grant(memory, "quantising")?;
        let sources: Vec<_> = self.sources.iter().filter(|(_, source)| source.unit == unit).collect();
        let mut statistics = Statistics::default();
        let columns: Vec<Vec<_>> = sources
            .iter()
            .map(|(_, source)| match &source.input {
                Some(input) => statistics.of(io, input, source.row_elements),
                None => Ok(Vec::new()),
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
            let name = |segment: u32| self.layout.tensors[segment as usize - 1].name.as_str();
            let gathered = sources.iter().zip(&columns).filter(|(_, columns)| !columns.is_empty());
            let gathered = gathered.map(|((segment, _), columns)| (name(**segment), columns.as_slice()));
            io.save(&ImportanceFile::key(unit), &importance_file::record(gathered))?;
        }
        for (segment, (errors, squares)) in totals {
            io.metric(segment, RELATIVE_ERROR, if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 });
        }
        Ok(())
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

/// Makes some rows of a tensor, and gives the sums of squared errors and of squares.
///
/// `columns` has what was gathered for each of its matrices, if its columns are weighed.
fn make_rows(
    io: &UnitHandle,
    segment: u32,
    source: &Source,
    columns: &[Arc<Gathered>],
    rows: &Range<u64>,
) -> Result<(f64, f64)> {
    if let Some((encoding, exact)) = &source.taken {
        return take_rows(io, segment, source, (encoding, *exact), rows);
    }
    let count = rows.end - rows.start;
    let row_bytes = source.block_type.row_bytes(source.row_elements).unwrap_or(0);
    let sums = with_scratch(|scratch| {
        source.origin.fetch(io, rows, (source.rows, source.row_elements), scratch)?;
        scratch.bytes.resize(in_memory(count * row_bytes)?, 0);
        source.quantize(columns, rows, &scratch.floats, &mut scratch.bytes)?;
        if source.block_type.first_invalid_block(&scratch.bytes).is_some() {
            return Err(too_large(source.block_type).about(source.name_of(io, rows.start)));
        }
        scratch.more_floats.resize(scratch.floats.len(), 0.0);
        source.block_type.dequantize(&scratch.bytes, &mut scratch.more_floats);
        io.write(segment, rows.start * row_bytes, &scratch.bytes)?;
        Ok(squared_errors(&scratch.floats, &scratch.more_floats))
    })?;
    io.progress(count * source.row_elements);
    Ok(sums)
}

/// Makes some rows out of what the source stores, and gives the sums of squared errors and of squares; those of rows that
/// are copied are nothing.
fn take_rows(
    io: &UnitHandle,
    segment: u32,
    source: &Source,
    (encoding, exact): (&Encoding, bool),
    rows: &Range<u64>,
) -> Result<(f64, f64)> {
    let count = rows.end - rows.start;
    let (block_type, width) = (source.block_type, source.row_elements);
    let row_bytes = in_memory(block_type.row_bytes(width).unwrap_or(0))?;
    let mut sums = (0.0, 0.0);
    with_scratch(|scratch| {
        scratch.bytes.resize(in_memory(count)? * row_bytes, 0);
        source.origin.whole_rows(rows, source.rows, |tensor, (first, lines), places| {
            let planes = io.planes(tensor, first, lines, encoding)?;
            let mut packed = Vec::new();
            let made = if encoding.is_grouped() {
                packed.resize(in_memory(lines)? * row_bytes, 0);
                let named = |failure: Failure| failure.about(io.tensor_name(tensor));
                block_type.pack(&planes, &mut packed).map_err(named)?;
                if block_type.first_invalid_block(&packed).is_some() {
                    return Err(named(too_large(block_type)));
                }
                scratch.floats.resize(planes.bytes.len(), 0.0);
                planes.weights(&mut scratch.floats)?;
                scratch.more_floats.resize(planes.bytes.len(), 0.0);
                block_type.dequantize(&packed, &mut scratch.more_floats);
                let (errors, squares) = squared_errors(&scratch.floats, &scratch.more_floats);
                if exact && errors > 0.0 {
                    return Err(named(Failure::internal(format!("{} does not hold its numbers", block_type.name()))));
                }
                sums = (sums.0 + errors, sums.1 + squares);
                &packed
            } else {
                &planes.bytes
            };
            for (place, row) in places.zip(made.chunks_exact(row_bytes.max(1))) {
                let at = in_memory(place)? * row_bytes;
                scratch.bytes[at..at + row_bytes].copy_from_slice(row);
            }
            Ok(())
        })?;
        io.write(segment, rows.start * row_bytes as u64, &scratch.bytes)
    })?;
    io.progress(count * width);
    Ok(sums)
}

impl Source {
    /// Quantises some rows, those of each matrix with its own importances.
    fn quantize(&self, columns: &[Arc<Gathered>], rows: &Range<u64>, x: &[f32], out: &mut [u8]) -> Result<()> {
        if columns.is_empty() {
            self.block_type.quantize(x, out);
            return Ok(());
        }
        let each = (self.rows / columns.len() as u64).max(1);
        let row_bytes = self.block_type.row_bytes(self.row_elements).unwrap_or(0);
        let (mut x, mut out, mut row) = (x, out, rows.start);
        while row < rows.end {
            let matrix = row / each;
            let end = rows.end.min((matrix + 1) * each);
            let (this_x, rest_x) = x.split_at(in_memory((end - row) * self.row_elements)?);
            let (this_out, rest_out) = out.split_at_mut(in_memory((end - row) * row_bytes)?);
            let importances = columns.get(in_memory(matrix)?);
            let importances = importances.ok_or_else(|| Failure::internal("a matrix without importances"))?;
            self.block_type.quantize_weighted(this_x, &importances.columns, this_out);
            (x, out, row) = (rest_x, rest_out, end);
        }
        Ok(())
    }

    /// Buffers for one chunk: the weights twice as `f32`, and the bytes; the last holds a piece of the file
    /// when it is checked.
    fn chunk_memory(&self) -> u64 {
        let all = self.rows.saturating_mul(self.row_elements);
        let granule = self.origin.granule(self.rows, self.row_elements);
        let weights = (granule * self.row_elements).max(CHUNK_WEIGHTS).min(all);
        let bytes = |weights| self.block_type.row_bytes(weights).unwrap_or(0);
        let codes = if self.taken.is_some() { weights.saturating_mul(2) } else { 0 };
        weights
            .saturating_mul(4 + 4)
            .saturating_add(codes)
            .saturating_add(bytes(weights).max(read::PIECE.min(bytes(all))))
    }

    /// The checkpoint's name for a row.
    fn name_of(&self, io: &UnitHandle, row: u64) -> String {
        let tensors = &self.origin.tensors;
        let each = (self.rows / (tensors.len() as u64).max(1)).max(1);
        let index = usize::try_from(row / each).unwrap_or(0);
        tensors.get(index).or(tensors.first()).map_or_else(String::new, |tensor| io.tensor_name(*tensor))
    }
}

fn level(options: &Options) -> Result<Option<&'static Level>> {
    if let Some(flag) = options.flags_besides_level().into_iter().find(|flag| *flag != "--imatrix") {
        return Err(Failure::usage(format!("{flag} has no meaning for gguf")).hint("choose the precision with --level"));
    }
    let Some(name) = options.level.as_deref() else { return Ok(None) };
    Level::named(name).map(Some).ok_or_else(|| {
        let known: Vec<_> = crate::format::LEVELS.iter().map(|level| level.name).collect();
        Failure::unsupported(format!("gguf has no level `{name}`")).hint(format!("the levels are {}", known.join(", ")))
    })
}

/// Whether columns are weighed by importances, which are computed.
fn imatrix_option(options: &Options) -> Result<bool> {
    match options.imatrix.as_deref() {
        None => Ok(false),
        Some("auto") => Ok(true),
        Some(file) => Err(Failure::unsupported(format!("importance matrices are not read from files (`{file}`)"))
            .about("--imatrix")
            .hint("--imatrix auto computes one in the same run, from --calibration")),
    }
}

/// The pre-tokenizer's name, and whether the importance matrix is saved.
fn plugin_options(options: &Options, weighed: bool) -> Result<(Option<&str>, bool)> {
    let known = [PRE_OPTION, SAVE_OPTION];
    if let Some(key) = options.plugin.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Failure::usage(format!("gguf has no plugin option `{key}`"))
            .hint(format!("it has `{PRE_OPTION}` and `{SAVE_OPTION}`")));
    }
    let saves = match options.plugin.get(SAVE_OPTION).map(String::as_str) {
        None | Some("false") => false,
        Some("true") if weighed => true,
        Some("true") => {
            return Err(Failure::usage(format!("{SAVE_OPTION} without --imatrix auto has nothing to save")));
        }
        Some(other) => return Err(Failure::usage(format!("{SAVE_OPTION} is true or false, not `{other}`"))),
    };
    Ok((options.plugin.get(PRE_OPTION).map(String::as_str), saves))
}

fn choose(level: &Level, model: &Model, family: &Family, items: &[Item], weighed: bool) -> Vec<Choice> {
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
        has_importances: weighed,
    };
    let shapes: Vec<_> = items.iter().map(Into::into).collect();
    recipe::choose(level, facts, &shapes)
}

/// The length of a row, and the number of rows.
fn row_shape(shape: &[u64]) -> (u64, u64) {
    shape.split_last().map_or((1, 1), |(row, outer)| (*row, outer.iter().product()))
}

fn fallback(wanted: BlockType, row_elements: u64) -> String {
    format!("rows of {row_elements} are no whole blocks of {} for {}", wanted.block_elements(), wanted.name())
}

fn too_large(block_type: BlockType) -> Failure {
    Failure::unsupported(format!("its weights are too large for the 16-bit scales of {}", block_type.name()))
        .hint("use --level BF16 or F32")
}

/// The sum of squared differences, and the sum of squares of `x`.
pub(crate) fn squared_errors(x: &[f32], y: &[f32]) -> (f64, f64) {
    // Eight sums side by side: the order of additions is fixed, and the CPU can do them at once.
    let (mut errors, mut squares) = ([0.0_f64; 8], [0.0_f64; 8]);
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        for (lane, (x, y)) in x.iter().zip(y).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            errors[lane] += (x - y) * (x - y);
            squares[lane] += x * x;
        }
    }
    (errors.iter().sum(), squares.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_errors_are_those_of_the_definition() {
        let x: Vec<f32> = (0..19_u8).map(f32::from).collect();
        let y: Vec<f32> = x.iter().map(|x| x + 0.5).collect();
        let (errors, squares) = squared_errors(&x, &y);
        assert!((errors - 19.0 * 0.25).abs() < 1e-9);
        assert!((squares - f64::from((0..19_u32).map(|x| x * x).sum::<u32>())).abs() < 1e-9);
    }
}
