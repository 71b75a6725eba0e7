//! What one unit of work offers to a plugin while it runs, and what it leaves behind.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::{Plan, SegmentContent},
    sdk::{FormatService, PLANES},
};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Event, Events,
    at_work::AtWork,
    calibrated::{self, Running},
    journal::{Metric, SavedBlob},
    planes::Offered,
    sources::{Sources, broken},
    written::Written,
};
use crate::{
    exit_code::Fault,
    plugin::{Borrowed, UnitServices},
    write::{Error as WriteError, ReservedFiles, sync_folder},
};

/// What all units of a run share.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) sources: Arc<Sources>,
    /// What may be taken in place of floats, in a conversion.
    pub(super) offered: Option<Arc<Offered>>,
    /// None while units only measure.
    pub(super) files: Option<Arc<ReservedFiles>>,
    pub(super) blob_folder: PathBuf,
    pub(super) events: Arc<dyn Events>,
    pub(super) at_work: Arc<AtWork>,
}

/// The services of one unit.
pub(super) struct UnitWork {
    shared: Arc<Shared>,
    unit: u32,
    closed: AtomicBool,
    written: Mutex<BTreeMap<u32, Arc<Mutex<Written>>>>,
    metrics: Mutex<Vec<Metric>>,
    saved: Mutex<Vec<SavedBlob>>,
    /// What earlier units saved, by key.
    loadable: BTreeMap<String, SavedBlob>,
    calibration: Option<Arc<Running>>,
}

/// What a unit leaves behind.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) metrics: Vec<Metric>,
    pub(super) saved: Vec<SavedBlob>,
    /// XXH3-128 of segments, in hexadecimal, of which it is known.
    pub(super) digests: BTreeMap<u32, String>,
}

impl UnitWork {
    pub(super) fn new(
        shared: Arc<Shared>,
        unit: u32,
        loadable: BTreeMap<String, SavedBlob>,
        calibration: Option<Arc<Running>>,
    ) -> Self {
        Self {
            shared,
            unit,
            closed: AtomicBool::new(false),
            written: Mutex::default(),
            metrics: Mutex::default(),
            saved: Mutex::default(),
            loadable,
            calibration,
        }
    }

    /// Ends the unit: later calls by the plugin fail.
    ///
    /// # Errors
    /// Gives the name of a segment that was not written whole, or not exactly once.
    pub(super) fn close(&self) -> Result<Remains, String> {
        self.closed.store(true, Ordering::SeqCst);
        let written = lock(&self.written);
        let mut digests = BTreeMap::new();
        let planned = self.shared.files.iter().flat_map(|_| &self.shared.plan.segments);
        for (id, segment) in (0..).zip(planned) {
            let SegmentContent::Tensor(tensor) = &segment.content else { continue };
            if tensor.unit != self.unit {
                continue;
            }
            match written.get(&id).map(|written| lock(written)) {
                Some(written) if written.covers(segment.bytes) => {
                    digests.extend(written.digest(segment.bytes).map(|digest| (id, digest)));
                }
                None if segment.bytes == 0 => {}
                _ => return Err(tensor.name.clone()),
            }
        }
        let mut metrics = std::mem::take(&mut *lock(&self.metrics));
        // Threads tell their figures in any order; the record has one order.
        metrics.sort_by(|a, b| (a.segment, &a.key).cmp(&(b.segment, &b.key)));
        let saved = std::mem::take(&mut *lock(&self.saved));
        Ok(Remains { metrics, saved, digests })
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    fn check_open(&self) -> Result<(), Failure> {
        if self.is_open() { Ok(()) } else { Err(broken("it used a unit after that unit's end")) }
    }
}

impl UnitServices for UnitWork {
    fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Borrowed, Failure> {
        self.check_open()?;
        if let Some(name) = self.name_of(tensor) {
            self.shared.at_work.tensor(name);
        }
        let lent = self.calibration.as_ref().and_then(|calibration| calibration.lend(tensor, first_row, rows));
        lent.unwrap_or_else(|| self.shared.sources.lend(tensor, first_row, rows))
    }

    fn take_back(&self, id: u64) {
        if !calibrated::is_virtual(id) {
            self.shared.sources.take_back(id);
        }
    }

    fn name_of(&self, tensor: u32) -> Option<&String> {
        self.shared.sources.name_of(tensor)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        if !self.is_open() {
            return None;
        }
        if name == PLANES {
            return self.shared.offered.clone().map(|offered| offered as _);
        }
        self.calibration.as_ref()?.service(self.unit, name)
    }

    fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.check_open()?;
        let planned = self.shared.plan.segments.get(segment as usize);
        let (planned, tensor) = match planned.map(|planned| (planned, &planned.content)) {
            Some((planned, SegmentContent::Tensor(tensor))) if tensor.unit == self.unit => (planned, tensor),
            _ => return Err(broken(&format!("it wrote into segment {segment}, which is not of this unit"))),
        };
        let length = bytes.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > planned.bytes) {
            return Err(broken(&format!("it wrote past the end of {}", tensor.name)));
        }
        let files = self.shared.files.as_ref().ok_or_else(|| broken("a unit that only measures wrote something"))?;
        files.write_at(planned.file, planned.offset + offset, bytes).map_err(|error| as_failure(&error))?;
        let written = Arc::clone(lock(&self.written).entry(segment).or_default());
        let read = |offset: u64, out: &mut [u8]| files.read_at(planned.file, planned.offset + offset, out);
        lock(&written).add(offset, bytes, read).map_err(|error| as_failure(&error))
    }

    fn metric(&self, segment: u32, key: &str, value: f64) {
        // A figure that is not a number cannot be written down; it is as good as no figure.
        if value.is_finite() && self.is_open() {
            lock(&self.metrics).push(Metric { segment, key: key.to_owned(), value });
        }
    }

    fn progress(&self, weights: u64) {
        if self.is_open() {
            self.shared.events.emit(Event::Progress { weights });
        }
    }

    fn save(&self, key: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.check_open()?;
        if self.shared.files.is_none() && std::str::from_utf8(bytes).is_err() {
            return Err(broken("a unit that only measures saved what is no text"));
        }
        let mut saved = lock(&self.saved);
        let file = format!("{}-{}", self.unit, saved.len());
        let folder = &self.shared.blob_folder;
        write_durably(folder, &file, bytes).map_err(|error| as_failure(&error))?;
        saved.push(SavedBlob { key: key.to_owned(), file, xxh3: digest_of(bytes) });
        Ok(())
    }

    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.check_open()?;
        let Some(blob) = self.loadable.get(key) else { return Ok(None) };
        // It was sound when the run began, or was written by this run.
        sound_blob(&self.shared.blob_folder, blob).map(Some).ok_or_else(|| {
            Failure::corrupt(format!("what the plugin saved as {key} was damaged while the run went on"))
                .about(self.shared.blob_folder.join(&blob.file).display().to_string())
                .hint("run the same command again: the units that depend on it are then made again")
        })
    }
}

/// The bytes of a blob, if they are those that were saved.
pub(super) fn sound_blob(folder: &Path, blob: &SavedBlob) -> Option<Vec<u8>> {
    fs::read(folder.join(&blob.file)).ok().filter(|bytes| digest_of(bytes) == blob.xxh3)
}

fn digest_of(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// Writes a file so that it outlives a power cut.
fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
    let path = folder.join(name);
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| WriteError::Io { action: "write", path: path.clone(), source })?;
    sync_folder(folder)
}

/// An error of the host on its way through the plugin back to the host.
pub(super) fn as_failure(error: &impl Fault) -> Failure {
    let kind = FailureKind(error.exit_code() as u32);
    Failure::new(kind, error.to_string()).hint(error.hint().unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
