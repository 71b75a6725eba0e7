//! Files and units in memory, behind the border's objects.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};

use super::{
    Failure, FailureKind, Metric, Result, TestHost,
    activations::{self, Activations},
    broken,
    conditions::Call,
    model::Weights,
};
use crate::{
    abi::{Files, Files_TO, FilesObject, Lease, ServiceObject, Unit, Unit_TO, UnitObject},
    documents::{Model, Plan, SegmentContent, SourceFile},
    sdk::service::service_object,
};

pub(super) fn files_object(files: BTreeMap<String, Vec<u8>>) -> FilesObject {
    Files_TO::from_ptr(RArc::new(MemoryFiles(files)), TD_Opaque)
}

struct MemoryFiles(BTreeMap<String, Vec<u8>>);

impl MemoryFiles {
    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64> {
        let Some(bytes) = self.0.get(name) else {
            return Err(Failure::new(FailureKind::NOT_FOUND, "there is no such file").about(name));
        };
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let length = out.len().min(bytes.len() - start);
        out[..length].copy_from_slice(&bytes[start..start + length]);
        Ok(length as u64)
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> RString {
        let list: Vec<_> =
            self.0.iter().map(|(name, bytes)| SourceFile::new(name.clone(), bytes.len() as u64)).collect();
        // A list of names and numbers is always JSON.
        serde_json::to_string(&list).unwrap_or_default().into()
    }

    fn read(&self, name: RStr<'_>, offset: u64, mut out: RSliceMut<'_, u8>) -> RResult<u64, Failure> {
        self.read_at(&name, offset, out.as_mut_slice()).into()
    }

    fn query_interface(&self, _name: RStr<'_>) -> ROption<ServiceObject> {
        ROption::RNone
    }
}

/// What the units of a job have made so far.
#[derive(Default)]
pub(super) struct Progress {
    /// For every segment that was written to: its bytes, and which of them are written.
    pub(super) segments: BTreeMap<u32, Piece>,
    pub(super) metrics: Vec<Metric>,
    pub(super) weights: u64,
    /// Saved by finished units.
    pub(super) saved: BTreeMap<String, Vec<u8>>,
    /// Saved by the unit at work.
    pub(super) saving: BTreeMap<String, Vec<u8>>,
}

/// A segment that is being written.
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// Written ranges: start and end.
    written: BTreeMap<u64, u64>,
}

impl Piece {
    fn new(length: usize) -> Self {
        Self { bytes: vec![0; length], written: BTreeMap::new() }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.written.iter().map(|(start, end)| end - start).sum::<u64>() == self.bytes.len() as u64
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.bytes.len() as u64);
        let end = end.ok_or_else(|| broken("it wrote past the end of a segment"))?;
        let before = self.written.range(..end).next_back();
        if before.is_some_and(|(_, taken)| *taken > offset) {
            return Err(broken("it wrote bytes of a segment twice"));
        }
        self.written.insert(offset, end);
        // Both lie within the bytes in memory.
        if let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) {
            self.bytes[start..end].copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// One unit at work.
pub(super) struct MemoryUnit {
    pub(super) unit: u32,
    pub(super) host: TestHost,
    pub(super) model: Arc<Model>,
    pub(super) weights: Arc<Vec<Weights>>,
    pub(super) plan: Arc<Plan>,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) activations: Arc<Activations>,
}

/// What is so of a unit while it is made.
#[derive(Default)]
pub(super) struct Monitor {
    pub(super) ended: AtomicBool,
    pub(super) leases: AtomicU64,
}

pub(super) fn unit_object(unit: MemoryUnit) -> UnitObject {
    Unit_TO::from_ptr(RArc::new(unit), TD_Opaque)
}

impl MemoryUnit {
    fn open(&self) -> Result<MutexGuard<'_, Progress>> {
        if self.monitor.ended.load(Ordering::Relaxed) {
            return Err(broken("it used a unit after `run_unit` had returned"));
        }
        Ok(self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lease> {
        drop(self.open()?);
        self.host.meet(Call::Lease)?;
        if let Some(lent) = self.activations.lend(tensor, first_row, rows) {
            self.monitor.leases.fetch_add(u64::from(lent.is_ok()), Ordering::Relaxed);
            return lent;
        }
        let absent = || broken(format!("it asked for rows of tensor {tensor} that are not there"));
        let index = tensor as usize;
        let (described, stored) = self.model.tensors.get(index).zip(self.weights.get(index)).ok_or_else(absent)?;
        if first_row.checked_add(rows).is_none_or(|end| end > described.rows()) {
            return Err(absent());
        }
        let row_bytes = stored.bytes.len() as u64 / described.rows().max(1);
        let start = usize::try_from(first_row * row_bytes).map_err(|_| absent())?;
        self.monitor.leases.fetch_add(1, Ordering::Relaxed);
        Ok(Lease {
            id: 0,
            dtype: stored.dtype,
            rows,
            row_elements: described.row_elements(),
            data: stored.bytes[start..].as_ptr(),
            bytes: rows * row_bytes,
        })
    }

    fn write_segment(&self, segment: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut progress = self.open()?;
        self.host.meet(Call::Write)?;
        let planned =
            self.plan.segments.get(segment as usize).filter(
                |planned| matches!(&planned.content, SegmentContent::Tensor(tensor) if tensor.unit == self.unit),
            );
        let planned =
            planned.ok_or_else(|| broken(format!("it wrote to segment {segment}, which is not of this unit")))?;
        let length = usize::try_from(planned.bytes).map_err(|_| broken("a segment is too large for a test"))?;
        progress.segments.entry(segment).or_insert_with(|| Piece::new(length)).write(offset, bytes)
    }
}

impl Unit for MemoryUnit {
    fn lease(&self, tensor: u32, first_row: u64, rows: u64) -> RResult<Lease, Failure> {
        self.lend(tensor, first_row, rows).into()
    }

    fn release(&self, _lease: u64) {
        self.monitor.leases.fetch_sub(1, Ordering::Relaxed);
    }

    fn write(&self, segment: u32, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        self.write_segment(segment, offset, bytes.as_slice()).into()
    }

    fn metric(&self, segment: u32, key: RStr<'_>, value: f64) {
        if let Ok(mut progress) = self.open() {
            progress.metrics.push(Metric { segment, key: key.into(), value });
        }
    }

    fn progress(&self, weights: u64) {
        if let Ok(mut progress) = self.open() {
            progress.weights += weights;
        }
    }

    fn save(&self, key: RStr<'_>, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        self.open().map(|mut progress| drop(progress.saving.insert(key.into(), bytes.to_vec()))).into()
    }

    fn load(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, Failure> {
        self.open()
            .map(|progress| progress.saved.get(key.as_str()).map(|bytes| RVec::from(bytes.clone())).into())
            .into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        let found = self.host.find(&name);
        if found.is_some() || !self.activations.has(&name) {
            return found;
        }
        let service = activations::Service(Arc::clone(&self.activations));
        ROption::RSome(service_object(Arc::new(service), self.host.handle()))
    }
}
