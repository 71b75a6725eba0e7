//! Holding the weights of a folder against the checkpoint that they come from.
//!
//! A linear is read whole and then taken apart on all threads: its outputs are columns of what is stored, so no part of
//! it lies in one piece.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use qhost_folder::StoredAt;
use qhost_plugin_api::{
    documents::{
        Findings, Model, Output, Plan, PlannedFile, PlannedUnit, Reading, Role, Segment, SourceTensor, StoredTensor,
        TensorSegment, UnitOrder, UnusedTensor,
    },
    sdk::{CHUNK_WEIGHTS, Failure, FilesHandle, FormatJob, Result, RowJob, UnitHandle, chunks, widen, with_scratch},
};

use crate::{CODES, Linear, Packed, Packing, Place, content::Told, plain::Plain};

/// The metric by which the host judges: the root of the summed squared errors over that of the squares.
const RELATIVE_ERROR: &str = "relative_rms_error";
/// The metric for the largest error of a weight.
const LARGEST_ERROR: &str = "max_abs_error";

/// A planned comparison.
pub struct Comparison<P> {
    plan: Plan,
    packing: P,
    /// By the segments of the plan.
    pairs: Vec<Pair>,
}

/// A tensor of the folder, and the one of the source that it stands for.
struct Pair {
    unit: u32,
    source: u32,
    /// Whether the source has the outputs as columns.
    transposed: bool,
    stored: Stored,
}

enum Stored {
    Packed(Box<Linear>),
    Plain(Box<Plain>),
}

/// Squared errors, squares, and the largest error of some rows.
type Errors = (f64, f64, f64);

impl<P: Packing> Comparison<P> {
    /// Plans the comparison of a folder with a model.
    ///
    /// # Errors
    /// Fails as reading the folder does.
    pub fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let Told { packing, linears, plain } = Told::<P>::of(existing)?;
        let mut linears: BTreeMap<String, Linear> =
            linears.into_iter().map(|linear| (format!("{}{CODES}", linear.name), linear)).collect();
        let plain: BTreeMap<&str, &StoredAt> = plain.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let sources = Sources::of(model);
        let mut plan = Plan::new(&*existing.format, "comparison", Output::folder("-comparison"));
        let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
        for tensor in &existing.tensors {
            let linear = linears.remove(&tensor.name);
            let stored = match (linear, plain.get(tensor.name.as_str())) {
                (Some(linear), _) => Stored::Packed(Box::new(linear)),
                (None, Some(plain)) => match Plain::of(plain) {
                    Ok(plain) => Stored::Plain(Box::new(plain)),
                    Err(_) => continue,
                },
                (None, None) => continue,
            };
            let Some((id, source)) = sources.find(tensor) else {
                left_out.push(tensor.name.as_str());
                continue;
            };
            let transposed = matches!(stored, Stored::Packed(_)) && source.transposed;
            if stored.shape(transposed) != source.shape {
                return Err(Failure::corrupt(format!(
                    "it stands for the shape {:?}, and {} of the source has {:?}",
                    stored.shape(transposed),
                    source.name,
                    source.shape
                ))
                .about(&*tensor.name)
                .hint("is it the checkpoint that the folder was made from?"));
            }
            let made = TensorSegment::new(&*tensor.name, source.unit, vec![id], &*tensor.encoding, tensor.weights());
            plan.segments.push(Segment::tensor(tensor.file, tensor.offset, tensor.bytes, made));
            pairs.push(Pair { unit: source.unit, source: id, transposed, stored });
        }
        let held: BTreeSet<u32> = pairs.iter().map(|pair| pair.source).collect();
        let missing = (0..).zip(&model.tensors).filter(|(id, _)| !held.contains(id));
        plan.unused = missing.map(|(id, _)| UnusedTensor::new(id, "the folder does not hold it")).collect();
        if let [first, more @ ..] = left_out.as_slice() {
            let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            plan.warnings.push(format!("not compared: {first}{others}, for which the source has nothing"));
        }
        plan.order = UnitOrder::Independent;
        let files = existing.tensors.iter().map(|tensor| tensor.file).max().map_or(0, |last| last + 1);
        let end =
            |file: u32| existing.tensors.iter().filter(|tensor| tensor.file == file).map(|t| t.offset + t.bytes).max();
        plan.files = (0..files).map(|file| PlannedFile::new(file.to_string(), end(file).unwrap_or(0))).collect();
        for unit in &model.units {
            let mut of_unit = pairs.iter().filter(|pair| pair.unit == unit.id).peekable();
            if of_unit.peek().is_none() {
                continue;
            }
            let (whole, each) = of_unit.fold((0, 0), |(whole, each), pair| {
                let memory = pair.memory();
                (memory.0.max(whole), memory.1.max(each))
            });
            let mut planned = PlannedUnit::new(unit.id);
            (planned.memory, planned.memory_per_thread) = (whole, each);
            plan.units.push(planned);
        }
        Ok(Self { plan, packing, pairs })
    }
}

/// The tensors of the source, by role and by name.
struct Sources<'a> {
    by_role: BTreeMap<(&'a Role, Option<u32>), (u32, &'a SourceTensor)>,
    by_name: BTreeMap<&'a str, (u32, &'a SourceTensor)>,
}

impl<'a> Sources<'a> {
    fn of(model: &'a Model) -> Self {
        let layers: BTreeMap<u32, Option<u32>> = model.units.iter().map(|unit| (unit.id, unit.layer)).collect();
        let layer = |tensor: &SourceTensor| layers.get(&tensor.unit).copied().flatten();
        let tensors = || (0..).zip(&model.tensors);
        Self {
            by_role: tensors().map(|(id, tensor)| ((&tensor.role, layer(tensor)), (id, tensor))).collect(),
            by_name: tensors().map(|(id, tensor)| (tensor.name.as_str(), (id, tensor))).collect(),
        }
    }

    /// The tensor that a stored one stands for: by its role, where the host has told it, for one checkpoint may have
    /// other names than the next.
    fn find(&self, stored: &StoredTensor) -> Option<(u32, &'a SourceTensor)> {
        let by_role = stored.role.as_ref().and_then(|role| self.by_role.get(&(role, stored.layer)));
        let by_name = || match stored.name.strip_suffix(CODES) {
            Some(name) => self.by_name.get(&*format!("{name}.weight")),
            None => self.by_name.get(&*stored.name),
        };
        by_role.or_else(by_name).copied()
    }
}

impl Stored {
    /// The shape of what it stands for.
    fn shape(&self, transposed: bool) -> Vec<u64> {
        match self {
            Self::Packed(linear) if transposed => vec![linear.shape.inputs as u64, linear.shape.outputs as u64],
            Self::Packed(linear) => vec![linear.shape.outputs as u64, linear.shape.inputs as u64],
            Self::Plain(plain) => plain.stored.shape.clone(),
        }
    }

    fn rows(&self) -> (u64, u64) {
        match self {
            Self::Packed(linear) => (linear.shape.outputs as u64, linear.shape.inputs as u64),
            Self::Plain(plain) => (plain.rows, plain.row_elements as u64),
        }
    }
}

impl Pair {
    /// Memory that it takes once, and for every thread.
    fn memory(&self) -> (u64, u64) {
        let (_, row_elements) = self.stored.rows();
        let chunk = row_elements.max(CHUNK_WEIGHTS).saturating_mul(4 + 4);
        match &self.stored {
            Stored::Plain(_) => (0, chunk.saturating_add(row_elements.max(CHUNK_WEIGHTS).saturating_mul(4))),
            Stored::Packed(linear) => {
                let rows = (CHUNK_WEIGHTS / row_elements.max(1)).max(1);
                let tables = rows.saturating_mul(linear.shape.groups as u64).saturating_mul(8);
                let groups = row_elements.saturating_mul(4);
                (linear.places().map(|place| place.bytes).sum(), chunk.saturating_add(tables).saturating_add(groups))
            }
        }
    }

    /// The errors of the whole tensor, added up in the order of its rows.
    fn measure(&self, packing: &impl Packing, io: &UnitHandle) -> Result<Errors> {
        let (rows, row_elements) = self.stored.rows();
        let jobs = [RowJob { item: (), rows, row_elements, granule: 1 }];
        let chunks = chunks(&jobs);
        let errors = match &self.stored {
            Stored::Plain(plain) => {
                io.host().parallel_map(chunks.len(), |index| self.plain(plain, io, &chunks[index].rows))?
            }
            Stored::Packed(linear) => {
                let bytes = Bytes::read(linear, io)?;
                let packed = bytes.packed();
                io.host().parallel_map(chunks.len(), |index| {
                    self.packed(linear, packing, &packed, io, &chunks[index].rows)
                })?
            }
        };
        Ok(errors
            .into_iter()
            .fold((0.0, 0.0, 0.0), |sum: Errors, part| (sum.0 + part.0, sum.1 + part.1, sum.2.max(part.2))))
    }

    fn plain(&self, plain: &Plain, io: &UnitHandle, rows: &Range<u64>) -> Result<Errors> {
        let count = in_memory(rows.end - rows.start)?;
        let row_bytes = plain.row_elements * plain.element_bytes;
        with_scratch(|scratch| {
            io.rows(self.source, rows.start, rows.end - rows.start)?.widen(&mut scratch.floats)?;
            scratch.bytes.resize(count * row_bytes, 0);
            let (file, offset) = (narrow(plain.stored.file), plain.stored.offset + rows.start * row_bytes as u64);
            io.read_existing(file, offset, &mut scratch.bytes)?;
            scratch.more_floats.resize(scratch.floats.len(), 0.0);
            widen(plain.dtype, &scratch.bytes, &mut scratch.more_floats)?;
            io.progress(scratch.floats.len() as u64);
            Ok(errors(&scratch.floats, &scratch.more_floats))
        })
    }

    fn packed(
        &self,
        linear: &Linear,
        packing: &impl Packing,
        packed: &Packed<'_>,
        io: &UnitHandle,
        rows: &Range<u64>,
    ) -> Result<Errors> {
        let range = in_memory(rows.start)?..in_memory(rows.end)?;
        with_scratch(|scratch| {
            if self.transposed {
                let lease = io.rows(self.source, 0, linear.shape.inputs as u64)?;
                scratch.floats.resize(range.len() * linear.shape.inputs, 0.0);
                for input in 0..linear.shape.inputs {
                    lease.widen_part(input as u64, rows, &mut scratch.more_floats)?;
                    for (output, weight) in scratch.more_floats.iter().enumerate() {
                        scratch.floats[output * linear.shape.inputs + input] = *weight;
                    }
                }
            } else {
                io.rows(self.source, rows.start, rows.end - rows.start)?.widen(&mut scratch.floats)?;
            }
            scratch.more_floats.resize(scratch.floats.len(), 0.0);
            linear.rows(packing, packed, &range, &mut scratch.more_floats)?;
            io.progress(scratch.floats.len() as u64);
            Ok(errors(&scratch.floats, &scratch.more_floats))
        })
    }
}

/// The tensors of a linear, in memory.
struct Bytes {
    codes: Vec<u8>,
    zeros: Option<Vec<u8>>,
    scales: Vec<u8>,
    order: Option<Vec<u8>>,
}

impl Bytes {
    fn read(linear: &Linear, io: &UnitHandle) -> Result<Self> {
        let read = |place: &Place| {
            let mut bytes = vec![0; in_memory(place.bytes)?];
            io.read_existing(narrow(place.file), place.offset, &mut bytes)?;
            Ok(bytes)
        };
        Ok(Self {
            codes: read(&linear.codes)?,
            zeros: linear.zeros.as_ref().map(read).transpose()?,
            scales: read(&linear.scales)?,
            order: linear.order.as_ref().map(read).transpose()?,
        })
    }

    fn packed(&self) -> Packed<'_> {
        Packed { codes: &self.codes, zeros: self.zeros.as_deref(), scales: &self.scales, order: self.order.as_deref() }
    }
}

impl<P: Packing> FormatJob for Comparison<P> {
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
        for (segment, pair) in (0_u32..).zip(&self.pairs).filter(|(_, pair)| pair.unit == unit) {
            let (errors, squares, largest) = pair.measure(&self.packing, io)?;
            // Nothing is as far from zeros as anything else: all of it is error.
            let relative = if squares > 0.0 { (errors / squares).sqrt() } else { f64::from(u8::from(errors > 0.0)) };
            io.metric(segment, RELATIVE_ERROR, relative);
            io.metric(segment, LARGEST_ERROR, largest);
        }
        Ok(())
    }

    fn check(&self, _: &FilesHandle) -> Result<Findings> {
        Ok(Findings::new(Vec::new()))
    }
}

/// Squared errors, squares and the largest error; eight sums side by side, so that the order of additions is fixed.
fn errors(source: &[f32], stored: &[f32]) -> Errors {
    let (mut errors, mut squares, mut largest) = ([0.0_f64; 8], [0.0_f64; 8], 0.0_f64);
    for (source, stored) in source.chunks(8).zip(stored.chunks(8)) {
        for (lane, (x, y)) in source.iter().zip(stored).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            errors[lane] += (x - y) * (x - y);
            squares[lane] += x * x;
            largest = largest.max((x - y).abs());
        }
    }
    (errors.iter().sum(), squares.iter().sum(), largest)
}

fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Failure::internal("a tensor is longer than memory"))
}

fn narrow(file: usize) -> u32 {
    u32::try_from(file).unwrap_or(u32::MAX)
}
