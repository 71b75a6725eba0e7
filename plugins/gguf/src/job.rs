//! One GGUF file, planned and made.
//!
//! It knows which tensor goes where; the families' names and keys, the mixture, the layout and the
//! kernels are in the other files.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use qhost_plugin_api::{
    documents::{
        Findings, Model, OpenRequest, Options, Output, Plan, PlannedFile, PlannedUnit, RoleKind, Segment,
        TensorSegment, UnitOrder,
    },
    sdk::{
        CHUNK_WEIGHTS, Failure, FilesHandle, FormatJob, HostHandle, Result, RowJob, Scratch, UnitHandle, chunks,
        with_scratch,
    },
};

use crate::{
    families::{self, Family, Rotary},
    format::{BlockType, Level},
    read,
    recipe::{self, Choice, ModelFacts, Shape},
    tokenizer,
    write::{self, Layout, Unplaced},
};

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: &str = "Q4_K_M";
/// The `--plugin-option` that names the pre-tokenizer.
pub(crate) const PRE_OPTION: &str = "pre";
/// The version of ggml's quantised formats that the bytes follow.
const QUANTIZATION_VERSION: u32 = 2;
/// The segment of everything before the tensor data.
const HEADER_SEGMENT: u32 = 0;
/// The name of the only file, by the host's convention for single-file outputs.
const FILE: &str = "";
/// The only metric: the root of the summed squared errors over that of the summed squares.
const RELATIVE_ERROR: &str = "relative_rms_error";

/// A planned file.
pub struct GgufJob {
    host: HostHandle,
    plan: Plan,
    layout: Layout,
    /// The tensors that are made from weights, by their segment.
    sources: BTreeMap<u32, Source>,
    /// The tensors that are made from the config, by their segment.
    constants: BTreeMap<u32, Vec<u8>>,
}

/// How a tensor of the file is made from one of the checkpoint.
#[derive(Debug, Clone)]
struct Source {
    tensor: u32,
    unit: u32,
    rows: u64,
    row_elements: u64,
    block_type: BlockType,
    /// Rows of a head whose halves are to be interleaved.
    interleave: Option<u64>,
}

/// A tensor on its way into the file.
struct Item {
    name: String,
    shape: Vec<u64>,
    origin: Origin,
}

enum Origin {
    Weights { tensor: u32, unit: u32, interleave: Option<u64> },
    Computed(Vec<u8>),
}

impl GgufJob {
    pub(crate) fn open(request: &OpenRequest, companions: &FilesHandle, host: HostHandle) -> Result<Self> {
        let model = &request.model;
        let level = level(&request.options)?;
        let pre = pre_option(&request.options)?;
        let family = families::family_of(model)?;
        let (mut metadata, mut warnings) = families::metadata(model, family)?;
        let vocabulary = model.hyperparameters.vocab_size;
        let _grant = host.grant(tokenizer::memory(companions, vocabulary), "reading the tokenizer")?;
        let tokenizer = tokenizer::tokenizer_metadata(companions, vocabulary, &model.config, pre)?;
        metadata.append(tokenizer.metadata)?;
        warnings.extend(tokenizer.warnings);
        // Last, and in this order, as llama.cpp's quantiser leaves them.
        metadata.push("general.quantization_version", QUANTIZATION_VERSION)?;
        metadata.push("general.file_type", level.file_type)?;

        let items = items(model, family)?;
        let choices = choose(level, model, family, &items);
        let unplaced = items.iter().zip(&choices).map(|(item, choice)| Unplaced {
            name: item.name.clone(),
            shape: item.shape.clone(),
            block_type: choice.block_type,
        });
        let layout = write::lay_out(&metadata, unplaced.collect())?;
        Ok(Self::plan(request, level, host, items, &choices, layout, warnings))
    }

    fn plan(
        request: &OpenRequest,
        level: &Level,
        host: HostHandle,
        items: Vec<Item>,
        choices: &[Choice],
        layout: Layout,
        warnings: Vec<String>,
    ) -> Self {
        let data_start = layout.header.len() as u64;
        let mut segments = vec![Segment::constant(0, 0, data_start, "header")];
        let (mut sources, mut constants) = (BTreeMap::new(), BTreeMap::new());
        for (((item, choice), placed), id) in
            items.into_iter().zip(choices).zip(&layout.tensors).zip(HEADER_SEGMENT + 1..)
        {
            let (row_elements, rows) = row_shape(&item.shape);
            let (offset, bytes) = (data_start + placed.offset, placed.bytes);
            segments.push(match item.origin {
                Origin::Weights { tensor, unit, interleave } => {
                    let block_type = choice.block_type;
                    sources.insert(id, Source { tensor, unit, rows, row_elements, block_type, interleave });
                    let elements = rows * row_elements;
                    let mut made = TensorSegment::new(item.name, unit, vec![tensor], block_type.name(), elements);
                    made.fallback = choice.instead_of.map(|wanted| fallback(wanted, row_elements));
                    Segment::tensor(0, offset, bytes, made)
                }
                Origin::Computed(computed) => {
                    constants.insert(id, computed);
                    Segment::constant(0, offset, bytes, item.name)
                }
            });
        }
        let units = request.model.units.iter().filter_map(|unit| {
            let memory = sources.values().filter(|source| source.unit == unit.id).map(Source::chunk_memory).max()?;
            let mut planned = PlannedUnit::new(unit.id);
            planned.memory_per_thread = memory;
            Some(planned)
        });
        let mut plan = Plan::new(&*request.format, level.name, Output::file(format!("-{}.gguf", level.name)));
        plan.files = vec![PlannedFile::single(layout.file_bytes)];
        plan.segments = segments;
        plan.units = units.collect();
        plan.order = UnitOrder::Independent;
        plan.warnings = warnings;
        Self { host, plan, layout, sources, constants }
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
        let sources = self.sources.iter().filter(|(_, source)| source.unit == unit);
        let jobs: Vec<_> = sources
            .map(|(segment, source)| RowJob {
                item: (*segment, source),
                rows: source.rows,
                row_elements: source.row_elements,
                granule: source.granule(),
            })
            .collect();
        let chunks = chunks(&jobs);
        let sums = io.host().parallel_map(chunks.len(), |index| {
            let (segment, source) = *chunks[index].item;
            make_rows(io, segment, source, &chunks[index].rows)
        })?;
        // Added up in the order of the chunks, so that the figure does not depend on the threads.
        let mut totals: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (chunk, (errors, squares)) in chunks.iter().zip(sums) {
            let total = totals.entry(chunk.item.0).or_default();
            *total = (total.0 + errors, total.1 + squares);
        }
        for (segment, (errors, squares)) in totals {
            io.metric(segment, RELATIVE_ERROR, if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 });
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let checks = read::check(files, FILE, &self.layout, &self.host)?;
        Ok(Findings::new(checks))
    }
}

/// Makes some rows of a tensor, and gives the sums of squared errors and of squares.
fn make_rows(io: &UnitHandle, segment: u32, source: &Source, rows: &Range<u64>) -> Result<(f64, f64)> {
    let count = rows.end - rows.start;
    let row_bytes = source.block_type.row_bytes(source.row_elements).unwrap_or(0);
    let sums = with_scratch(|scratch| {
        source.fetch(io, rows, scratch)?;
        scratch.bytes.resize(in_memory(count * row_bytes)?, 0);
        source.block_type.quantize(&scratch.floats, &mut scratch.bytes);
        if source.block_type.first_invalid_block(&scratch.bytes).is_some() {
            return Err(too_large(source.block_type).about(io.tensor_name(source.tensor)));
        }
        scratch.more_floats.resize(scratch.floats.len(), 0.0);
        source.block_type.dequantize(&scratch.bytes, &mut scratch.more_floats);
        io.write(segment, rows.start * row_bytes, &scratch.bytes)?;
        Ok(squared_errors(&scratch.floats, &scratch.more_floats))
    })?;
    io.progress(count * source.row_elements);
    Ok(sums)
}

impl Source {
    /// The rows that must stay together: two neighbours come from two places, see [`runs`].
    fn granule(&self) -> u64 {
        if self.interleave.is_some() && self.rows > 1 { 2 } else { 1 }
    }

    /// Buffers for one chunk: the weights twice as `f32`, and the bytes.
    fn chunk_memory(&self) -> u64 {
        let weights = (self.granule() * self.row_elements).max(CHUNK_WEIGHTS);
        weights.saturating_mul(4 + 4 + 4)
    }

    /// Widens the weights of some rows of the file into `scratch.floats`.
    fn fetch(&self, io: &UnitHandle, rows: &Range<u64>, scratch: &mut Scratch) -> Result<()> {
        let Scratch { floats, more_floats, .. } = scratch;
        let count = rows.end - rows.start;
        let Some(head) = self.interleave else {
            return io.rows(self.tensor, rows.start, count)?.widen(floats);
        };
        floats.resize(in_memory(count * self.row_elements)?, 0.0);
        if self.rows > 1 {
            for run in runs(rows, head) {
                io.rows(self.tensor, run.first, run.count)?.widen(more_floats)?;
                spread(more_floats, in_memory(self.row_elements)?, in_memory(run.place)?, floats);
            }
        } else {
            // A bias: it has an element where a weight has a row.
            io.rows(self.tensor, 0, 1)?.widen(more_floats)?;
            for run in runs(&(0..self.row_elements), head) {
                let elements = &more_floats[in_memory(run.first)?..][..in_memory(run.count)?];
                spread(elements, 1, in_memory(run.place)?, floats);
            }
        }
        Ok(())
    }
}

/// A length of something that is held in memory.
fn in_memory(length: u64) -> Result<usize> {
    usize::try_from(length).map_err(|_| Failure::internal("a chunk is too long"))
}

fn level(options: &Options) -> Result<&'static Level> {
    if let [flag, ..] = options.flags_besides_level().as_slice() {
        return Err(Failure::usage(format!("{flag} has no meaning for gguf")).hint("choose the precision with --level"));
    }
    let name = options.level.as_deref().unwrap_or(DEFAULT_LEVEL);
    Level::named(name).ok_or_else(|| {
        let known: Vec<_> = crate::format::LEVELS.iter().map(|level| level.name).collect();
        Failure::unsupported(format!("gguf has no level `{name}`")).hint(format!("the levels are {}", known.join(", ")))
    })
}

fn pre_option(options: &Options) -> Result<Option<&str>> {
    match options.plugin.keys().find(|key| *key != PRE_OPTION) {
        Some(key) => {
            Err(Failure::usage(format!("gguf has no plugin option `{key}`")).hint(format!("it has `{PRE_OPTION}`")))
        }
        None => Ok(options.plugin.get(PRE_OPTION).map(String::as_str)),
    }
}

/// The tensors of the file, in its order.
fn items(model: &Model, family: &Family) -> Result<Vec<Item>> {
    let head = model.hyperparameters.head_dim;
    if family.rotary == Rotary::Neighbours && !head.is_multiple_of(2) {
        return Err(Failure::unsupported(format!("heads of {head} cannot be turned in pairs")).about("head_dim"));
    }
    let mut items = Vec::new();
    for (tensor, id) in model.tensors.iter().zip(0_u32..) {
        let rotated = matches!(tensor.role.kind, RoleKind::AttentionQ | RoleKind::AttentionK);
        let interleave = (rotated && family.rotary == Rotary::Neighbours).then_some(head);
        items.push(Item {
            name: families::tensor_name(model, tensor)?,
            shape: tensor.shape.clone(),
            origin: Origin::Weights { tensor: id, unit: tensor.unit, interleave },
        });
    }
    if let Some(factors) = families::rope_factors(model)? {
        items.push(Item {
            name: "rope_freqs.weight".into(),
            shape: vec![factors.len() as u64],
            origin: Origin::Computed(factors.iter().flat_map(|factor| factor.to_le_bytes()).collect()),
        });
    }
    items.sort_by(|a, b| (layer_of(&a.name), &a.name).cmp(&(layer_of(&b.name), &b.name)));
    Ok(items)
}

/// The layer in a name; tensors of no layer come first.
fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn choose(level: &Level, model: &Model, family: &Family, items: &[Item]) -> Vec<Choice> {
    let sizes = &model.hyperparameters;
    let facts = ModelFacts {
        layers: sizes.layers,
        grouped_heads: sizes.heads / sizes.kv_heads.max(1),
        is_70b: (family.is_70b)(sizes),
    };
    let shapes: Vec<_> = items
        .iter()
        .map(|item| Shape {
            name: &item.name,
            row_elements: row_shape(&item.shape).0,
            dimensions: write::dimensions(&item.shape).len(),
        })
        .collect();
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

/// Lines of the checkpoint that follow each other, and stand at every second place in the file.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// The first of them in the checkpoint.
    first: u64,
    /// How many they are.
    count: u64,
    /// The place of the first, from the start of the lines that were asked for.
    place: u64,
}

/// Where some lines of a tensor come from whose heads have their two halves interleaved.
///
/// A head of `h` lines is stored as lines 0, h/2, 1, h/2 + 1, … of the checkpoint. `lines` starts and
/// ends between two such pairs, anywhere in a head.
fn runs(lines: &Range<u64>, head: u64) -> impl Iterator<Item = Run> {
    let Range { start, end } = *lines;
    (start / head..end.div_ceil(head)).flat_map(move |index| {
        let base = index * head;
        let (from, to) = (start.max(base), end.min(base + head));
        [0, 1].map(|half| Run {
            first: base + half * (head / 2) + (from - base) / 2,
            count: (to - from) / 2,
            place: from - start + half,
        })
    })
}

/// Copies lines of `columns` elements to every second line of `out`, the first to line `place`.
fn spread(lines: &[f32], columns: usize, place: usize, out: &mut [f32]) {
    let places = out.chunks_exact_mut(columns).skip(place).step_by(2);
    places.zip(lines.chunks_exact(columns)).for_each(|(place, line)| place.copy_from_slice(line));
}

/// The sum of squared differences, and the sum of squares of `x`.
fn squared_errors(x: &[f32], y: &[f32]) -> (f64, f64) {
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

    /// Every cut into even pieces, against the definition: reshape to (heads, 2, h/2), swap, flatten.
    #[test]
    fn halves_of_each_head_become_neighbours_however_the_tensor_is_cut() {
        for (heads, head) in [(1, 2), (3, 2), (2, 4), (4, 6), (3, 16)] {
            let lines = heads * head;
            let expected: Vec<_> = (0..lines)
                .map(|line| (line / head, line % head))
                .map(|(index, line)| index * head + line / 2 + line % 2 * (head / 2))
                .collect();
            for step in (2..=lines).step_by(2) {
                let mut made = Vec::new();
                for start in (0..lines).step_by(usize::try_from(step).unwrap()) {
                    let piece = start..lines.min(start + step);
                    let mut out = vec![u64::MAX; usize::try_from(piece.end - piece.start).unwrap()];
                    for run in runs(&piece, head) {
                        assert!(run.count > 0, "an empty run is a loan for nothing");
                        for line in 0..run.count {
                            out[usize::try_from(run.place + 2 * line).unwrap()] = run.first + line;
                        }
                    }
                    made.extend(out);
                }
                assert_eq!(made, expected, "{heads} heads of {head} in pieces of {step}");
            }
        }
    }

    #[test]
    fn lines_are_spread_over_every_second_place() {
        let mut out = vec![0.0; 12];
        spread(&[1.0, 2.0, 3.0, 4.0], 2, 2, &mut out);
        spread(&[5.0, 6.0], 2, 1, &mut out);
        let expected = [0, 0, 5, 6, 1, 2, 0, 0, 3, 4, 0, 0_u8].map(f32::from);
        assert!(out.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{out:?}");
    }

    #[test]
    fn tensors_are_in_the_order_of_the_reference() {
        let mut names = ["blk.10.a", "token_embd.weight", "blk.2.b", "output.weight", "blk.2.a", "output_norm.weight"];
        names.sort_by_key(|name| (layer_of(name), *name));
        assert_eq!(
            names,
            ["output.weight", "output_norm.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"]
        );
    }

    #[test]
    fn squared_errors_are_those_of_the_definition() {
        let x: Vec<f32> = (0..19_u8).map(f32::from).collect();
        let y: Vec<f32> = x.iter().map(|x| x + 0.5).collect();
        let (errors, squares) = squared_errors(&x, &y);
        assert!((errors - 19.0 * 0.25).abs() < 1e-9);
        assert!((squares - f64::from((0..19_u32).map(|x| x * x).sum::<u32>())).abs() < 1e-9);
    }
}
