//! Holding the tensors of a GGUF file, whoever made it, against the checkpoint that they come from.
//!
//! It knows which tensor is made from which; the file's bytes and the source's rows come from the host, and
//! nothing is written.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use qhost_linears::metric;
use qhost_plugin_api::{
    documents::{
        Findings, Model, Output, Plan, PlannedFile, PlannedUnit, Reading, Segment, StoredTensor, TensorSegment,
        UnitOrder, UnusedTensor,
    },
    sdk::{
        CHUNK_WEIGHTS, Failure, FilesHandle, FormatJob, Result, RowJob, UnitHandle, chunks, squared_errors,
        with_scratch,
    },
};

use qhost_ggml::GgmlType;

use crate::{
    arrange::{Origin, in_memory},
    families,
    items::{self, Content, Item},
    write,
};

/// The metric for the largest error of a weight.
const LARGEST_ERROR: &str = "max_abs_error";

/// A planned comparison.
pub struct Comparison {
    plan: Plan,
    /// By the segments of the plan.
    pairs: Vec<Pair>,
}

/// A tensor of the file, and what it should hold.
struct Pair {
    file: u32,
    offset: u64,
    unit: u32,
    rows: u64,
    row_elements: u64,
    ggml_type: GgmlType,
    expected: Expected,
}

enum Expected {
    Weights(Origin),
    Numbers(Vec<f32>),
}

/// Squared errors, squares, and the largest error of some rows.
type Errors = (f64, f64, f64);

impl Comparison {
    /// Plans the comparison of a file with a model.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` when llama.cpp has no place for the model, or the file is of another
    /// architecture.
    pub(crate) fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let family = families::family_of(model)?;
        if let Some(other) = existing.architecture.as_deref().filter(|other| *other != family.architecture) {
            let message = format!("the file is of the architecture {other}, and the source of {}", family.architecture);
            return Err(Failure::unsupported(message).hint("is it the checkpoint that the file was made from?"));
        }
        let (items, _) = items::items(model, family)?;
        let mut items: BTreeMap<String, Item> = items.into_iter().map(|item| (item.name.clone(), item)).collect();
        let first_unit = model.units.first().map_or(0, |unit| unit.id);
        let mut plan = Plan::new(&*existing.format, "comparison", Output::file("-comparison"));
        let mut pairs = Vec::new();
        let mut left_out = LeftOut::default();
        for tensor in &existing.tensors {
            let Some(item) = items.remove(&tensor.name) else {
                left_out.strangers.push(&tensor.name);
                continue;
            };
            let Some(ggml_type) = GgmlType::named(&tensor.encoding).filter(|known| known.holds_weights()) else {
                left_out.by_type.entry(&tensor.encoding).or_default().push(&tensor.name);
                continue;
            };
            if write::dimensions(&tensor.shape) != write::dimensions(&item.shape) {
                left_out.misshapen.push((tensor, item.shape));
                continue;
            }
            let pair = Pair::new(tensor, item, ggml_type, first_unit);
            let sources = pair.sources();
            let made = TensorSegment::new(&*tensor.name, pair.unit, sources, &*tensor.encoding, tensor.elements());
            plan.segments.push(Segment::tensor(tensor.file, tensor.offset, tensor.bytes, made));
            pairs.push(pair);
        }
        plan.unused = unused(items.into_values(), &pairs);
        plan.warnings = left_out.warnings();
        plan.order = UnitOrder::Independent;
        let files = existing.tensors.iter().map(|tensor| tensor.file).max().map_or(0, |last| last + 1);
        let end =
            |file: u32| existing.tensors.iter().filter(|tensor| tensor.file == file).map(|t| t.offset + t.bytes).max();
        plan.files = (0..files).map(|file| PlannedFile::new(file.to_string(), end(file).unwrap_or(0))).collect();
        for unit in &model.units {
            if let Some(memory) = pairs.iter().filter(|pair| pair.unit == unit.id).map(Pair::chunk_memory).max() {
                let mut planned = PlannedUnit::new(unit.id);
                planned.memory_per_thread = memory;
                plan.units.push(planned);
            }
        }
        Ok(Self { plan, pairs })
    }
}

/// Tensors of the source that no tensor of the file holds.
fn unused(left: impl Iterator<Item = Item>, pairs: &[Pair]) -> Vec<UnusedTensor> {
    let held: BTreeSet<u32> = pairs.iter().flat_map(Pair::sources).collect();
    let origins = left.filter_map(|item| match item.content {
        Content::Weights { origin, .. } => Some(origin.tensors),
        Content::Computed(_) => None,
    });
    let missing: BTreeSet<u32> = origins.flatten().filter(|tensor| !held.contains(tensor)).collect();
    missing.into_iter().map(|tensor| UnusedTensor::new(tensor, "the file does not hold it")).collect()
}

/// Tensors of the file that cannot be compared.
#[derive(Default)]
struct LeftOut<'a> {
    strangers: Vec<&'a str>,
    by_type: BTreeMap<&'a str, Vec<&'a str>>,
    /// With the shape that the source gives.
    misshapen: Vec<(&'a StoredTensor, Vec<u64>)>,
}

impl LeftOut<'_> {
    fn warnings(self) -> Vec<String> {
        let many = |names: &[&str]| match names {
            [only] => (*only).to_owned(),
            names => format!("{} tensors, such as {},", names.len(), names[0]),
        };
        let mut warnings = Vec::new();
        if let [(tensor, shape), more @ ..] = self.misshapen.as_slice() {
            let others = if more.is_empty() { String::new() } else { format!(", and {} more tensors", more.len()) };
            warnings.push(format!(
                "not compared: {}, whose shape is {:?} and by the source {shape:?}{others}",
                tensor.name, tensor.shape
            ));
        }
        for (encoding, names) in &self.by_type {
            warnings.push(format!("not compared: {} of the type {encoding}, which holds no weights", many(names)));
        }
        if !self.strangers.is_empty() {
            warnings.push(format!("not compared: {} for which the source has nothing", many(&self.strangers)));
        }
        warnings
    }
}

impl FormatJob for Comparison {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        Err(Failure::internal(format!("segment {segment} is not constant")))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        let _grant = io.host().grant(memory, "comparing")?;
        let jobs: Vec<_> = (0_u32..)
            .zip(&self.pairs)
            .filter(|(_, pair)| pair.unit == unit)
            .map(|(segment, pair)| RowJob {
                item: (segment, pair),
                rows: pair.rows,
                row_elements: pair.row_elements,
                granule: pair.granule(),
            })
            .collect();
        let chunks = chunks(&jobs);
        let errors = io.host().parallel_map(chunks.len(), |index| {
            let (_, pair) = *chunks[index].item;
            pair.errors(io, &chunks[index].rows)
        })?;
        // Added up in the order of the chunks, as when the file is made: the figure is the same to the bit.
        let mut totals: BTreeMap<u32, Errors> = BTreeMap::new();
        for (chunk, (errors, squares, largest)) in chunks.iter().zip(errors) {
            let total = totals.entry(chunk.item.0).or_default();
            *total = (total.0 + errors, total.1 + squares, total.2.max(largest));
        }
        for (segment, (errors, squares, largest)) in totals {
            // Nothing is as far from zeros as anything else: all of it is error.
            let relative = if squares > 0.0 { (errors / squares).sqrt() } else { f64::from(u8::from(errors > 0.0)) };
            io.metric(segment, metric::RELATIVE_ERROR, relative);
            io.metric(segment, LARGEST_ERROR, largest);
        }
        Ok(())
    }

    fn check(&self, _files: &FilesHandle) -> Result<Findings> {
        Ok(Findings::new(Vec::new()))
    }
}

impl Pair {
    fn new(tensor: &StoredTensor, item: Item, ggml_type: GgmlType, first_unit: u32) -> Self {
        let (unit, expected) = match item.content {
            Content::Weights { unit, origin } => (unit, Expected::Weights(origin)),
            Content::Computed(numbers) => (first_unit, Expected::Numbers(numbers)),
        };
        let row_elements = item.shape.last().copied().unwrap_or(1);
        Self {
            file: tensor.file,
            offset: tensor.offset,
            unit,
            rows: tensor.elements().checked_div(row_elements).unwrap_or(0),
            row_elements,
            ggml_type,
            expected,
        }
    }

    fn sources(&self) -> Vec<u32> {
        match &self.expected {
            Expected::Weights(origin) => origin.tensors.clone(),
            Expected::Numbers(_) => Vec::new(),
        }
    }

    fn granule(&self) -> u64 {
        match &self.expected {
            Expected::Weights(origin) => origin.granule(self.rows, self.row_elements),
            Expected::Numbers(_) => 1,
        }
    }

    /// Buffers for one chunk: the weights twice as `f32`, and the bytes.
    fn chunk_memory(&self) -> u64 {
        (self.granule() * self.row_elements).max(CHUNK_WEIGHTS).saturating_mul(4 + 4 + 4)
    }

    fn errors(&self, io: &UnitHandle, rows: &Range<u64>) -> Result<Errors> {
        let count = rows.end - rows.start;
        let row_bytes = self.ggml_type.row_bytes(self.row_elements).unwrap_or(0);
        with_scratch(|scratch| {
            match &self.expected {
                Expected::Weights(origin) => origin.fetch(io, rows, (self.rows, self.row_elements), scratch)?,
                Expected::Numbers(numbers) => {
                    let first = in_memory(rows.start * self.row_elements)?;
                    let last = in_memory(rows.end * self.row_elements)?;
                    scratch.floats.clear();
                    scratch.floats.extend(&numbers[first..last]);
                }
            }
            scratch.bytes.resize(in_memory(count * row_bytes)?, 0);
            io.read_existing(self.file, self.offset + rows.start * row_bytes, &mut scratch.bytes)?;
            scratch.more_floats.resize(scratch.floats.len(), 0.0);
            self.ggml_type.dequantize(&scratch.bytes, &mut scratch.more_floats);
            io.progress(count * self.row_elements);
            let (errors, squares) = squared_errors(&scratch.floats, &scratch.more_floats);
            let differences = scratch.floats.iter().zip(&scratch.more_floats);
            let differences = differences.map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs());
            Ok((errors, squares, differences.fold(0.0, f64::max)))
        })
    }
}
