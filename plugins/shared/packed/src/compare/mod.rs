//! Holding the weights of a folder against the checkpoint that they come from.
//!
//! Where a format scales inputs of linears and divides what comes before, the scales are found again and undone first: what
//! is told is the error of the packed weights, and not what the model's own functions are not changed by.

mod pair;
mod scaling;
mod sources;
mod unscale;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use qhost_folder::StoredAt;
use qhost_plugin_api::{
    documents::{
        Findings, Fold, Model, Output, Plan, PlannedFile, PlannedUnit, Reading, Segment, TensorSegment, UnitOrder,
        UnusedTensor,
    },
    sdk::{Failure, FilesHandle, FormatJob, Result, UnitHandle},
};

use crate::{
    Linear, Packing,
    compare::{
        pair::{Pair, Stored},
        sources::Sources,
        unscale::scalings,
    },
    content::{Told, codes_of},
    plain::Plain,
};

/// The metric by which the host judges: the root of the summed squared errors over that of the squares.
const RELATIVE_ERROR: &str = "relative_rms_error";
/// The metric for the largest error of a weight.
const LARGEST_ERROR: &str = "max_abs_error";

/// A planned comparison.
pub struct Comparison<P> {
    plan: Plan,
    packing: P,
    /// What may have been scaled.
    folds: Vec<Fold>,
    /// By the segments of the plan.
    pairs: Vec<Pair>,
}

impl<P: Packing> Comparison<P> {
    /// Plans the comparison of a folder with a model.
    ///
    /// # Errors
    /// Fails as reading the folder does.
    pub fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let Told { packing, linears, plain } = Told::<P>::of(existing)?;
        let mut linears: BTreeMap<String, Linear> =
            linears.into_iter().map(|linear| (codes_of::<P>(&linear.name), linear)).collect();
        let plain: BTreeMap<&str, &StoredAt> = plain.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let sources = Sources::of(model, P::ENDINGS);
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
            let pair = Pair::of(stored, (id, source));
            let shape = pair.stored.shape(pair.transposed);
            if shape != source.shape {
                return Err(Failure::corrupt(format!(
                    "it stands for the shape {shape:?}, and {} of the source has {:?}",
                    source.name, source.shape
                ))
                .about(&*tensor.name)
                .hint("is it the checkpoint that the folder was made from?"));
            }
            let made = TensorSegment::new(&*tensor.name, source.unit, vec![id], &*tensor.encoding, tensor.weights());
            plan.segments.push(Segment::tensor(tensor.file, tensor.offset, tensor.bytes, made));
            pairs.push(pair);
        }
        let held: BTreeSet<u32> = pairs.iter().map(|pair| pair.source).collect();
        let missing = (0..).zip(&model.tensors).filter(|(id, _)| !held.contains(id));
        plan.unused = missing.map(|(id, _)| UnusedTensor::new(id, "the folder does not hold it")).collect();
        if let [first, more @ ..] = left_out.as_slice() {
            let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            plan.warnings.push(format!("not compared: {first}{others}, for which the source has nothing"));
        }
        if P::SCALES_INPUTS && model.folds.is_empty() {
            plan.warnings.push(
                "scales of inputs that are divided out before are not undone, because nothing tells what comes before in \
                 this family: the errors are too large by them"
                    .into(),
            );
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
            let factors = pairs.iter().filter(|pair| P::SCALES_INPUTS && pair.unit == unit.id);
            // They are there twice: as they will be, and while products are added up.
            let factors = factors.fold(0, |sum: u64, pair| sum.saturating_add(pair.unscaled.bytes().saturating_mul(3)));
            let mut planned = PlannedUnit::new(unit.id);
            (planned.memory, planned.memory_per_thread) = (whole.saturating_add(factors), each);
            plan.units.push(planned);
        }
        let folds = if P::SCALES_INPUTS { model.folds.clone() } else { Vec::new() };
        Ok(Self { plan, packing, folds, pairs })
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
        let of_unit = self.pairs.iter().filter(|pair| pair.unit == unit);
        let of_unit: BTreeMap<u32, &Pair> = of_unit.map(|pair| (pair.source, pair)).collect();
        let folds = self.folds.iter().filter(|fold| fold.unit == unit);
        let scalings = scalings(&self.packing, folds, &of_unit, io)?;
        for (segment, pair) in (0_u32..).zip(&self.pairs).filter(|(_, pair)| pair.unit == unit) {
            let (errors, squares, largest) = pair.measure(&self.packing, scalings.get(&pair.source), io)?;
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
