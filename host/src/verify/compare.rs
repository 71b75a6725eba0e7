//! Holding the weights in files against the checkpoint that they were made from.
//!
//! Only the plugin knows how its tensors come from those of a checkpoint, so it plans a job whose units
//! write nothing: the host lends them the source's rows and the file's bytes, and they tell how far apart the
//! two are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::{Check, ExistingRequest, OpenRequest, Options, Plan, Reading, SegmentContent, StoredTensor},
    sdk::{EXISTING, FormatService, Operand, OperandMut, ServiceAnswer},
};

use super::Error;
use crate::{
    inspect::{Content, File, Opened},
    model::{self, Understood},
    plugin::{Borrowed, LoadedJob, UnitServices},
    run::{Companion, Companions, Event, Events, Sources},
    source,
};

/// The metric by which tensors are judged: the root of the summed squared errors over that of the squares.
const RELATIVE: &str = "relative_rms_error";

/// The name of the check.
pub const NAME: &str = "comparison";

/// A tensor whose error is this large is not that of the source: with unrelated weights it is about 1.4, with
/// zeros 1, and with two bits for each weight below a half.
const UNRELATED: f64 = 0.9;

/// Bytes of the files that may stay in memory after they were read.
const KEPT: u64 = 8 << 20;

/// How the weights of files differ from those of a checkpoint.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The checkpoint.
    pub source: PathBuf,
    /// The tensors that were compared, in the order of the files.
    pub tensors: Vec<Compared>,
    /// Tensors of the files that were not, by name.
    pub not_compared: Vec<String>,
    /// Tensors of the checkpoint that the files do not hold, by name.
    pub missing: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Its name in the files.
    pub name: String,
    /// How it is stored.
    pub encoding: String,
    /// Weights.
    pub elements: u64,
    /// What the plugin measured.
    pub metrics: BTreeMap<String, f64>,
}

impl Compared {
    /// The root mean square of the errors, relative to that of the weights.
    #[must_use]
    pub fn relative_error(&self) -> Option<f64> {
        self.metrics.get(RELATIVE).copied()
    }
}

impl Comparison {
    /// The tensors from the largest relative error down.
    #[must_use]
    pub fn worst_first(&self) -> Vec<&Compared> {
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        let error = |tensor: &Compared| tensor.relative_error().unwrap_or(f64::INFINITY);
        tensors.sort_by(|a, b| error(b).total_cmp(&error(a)));
        tensors
    }

    /// Whether the files hold the source, as a check.
    pub(super) fn check(&self) -> Check {
        let name = NAME;
        if self.tensors.is_empty() {
            return Check::failed(name, "no tensor could be compared");
        }
        if let Some(missing) = self.missing.first() {
            let more = self.missing.len() - 1;
            let more = if more == 0 { String::new() } else { format!(", nor {more} more tensors") };
            return Check::failed(name, format!("{missing} of the source is not in the files{more}"));
        }
        let worst = self.worst_first();
        match worst.first().map(|tensor| (tensor, tensor.relative_error())) {
            None => Check::failed(name, "no tensor was measured"),
            Some((tensor, None)) => Check::failed(name, format!("{} was not measured", tensor.name)),
            Some((tensor, Some(error))) if error >= UNRELATED => Check::failed(
                name,
                format!("{} does not hold the weights of the source: its relative error is {error:.3}", tensor.name),
            ),
            Some((tensor, Some(error))) => {
                let tensors = self.tensors.len();
                Check::passed(name, format!("{tensors} tensors; the largest error is {error:.4}, of {}", tensor.name))
            }
        }
    }
}

/// Compares.
///
/// # Errors
/// Fails when the source cannot be opened, or the plugin cannot compare.
pub(super) fn compare(
    opened: &Opened,
    reading: &Reading,
    source: &Path,
    events: &dyn Events,
) -> Result<Comparison, Error> {
    let Content::Plugin(plugin, format) = &opened.content else {
        return Err(Error::NotComparable { format: opened.format().0.to_owned() });
    };
    let checkpoint = source::open(source)?;
    let Understood { model, stored, warnings } = model::understand(&checkpoint)?;
    let mut request = OpenRequest::new(format.clone(), Options::default(), model);
    request.existing = Some(reading.clone());
    let job = plugin
        .open(&request, Arc::new(Companions::new(checkpoint.companions.iter().map(Companion::from).collect())))?;
    check_plan(&job.plan, reading)
        .map_err(|reason| Error::CannotCompare { plugin: plugin.manifest.id.clone(), reason })?;
    let model = Arc::new(request.model);
    let shared = Arc::new(Shared {
        sources: Sources::new(&checkpoint, Arc::clone(&model), &stored),
        existing: Arc::new(Existing { files: opened.files.clone(), read: AtomicU64::new(0) }),
        metrics: Mutex::default(),
    });
    run(&job, &shared, events)?;
    let mut metrics = std::mem::take(&mut *shared.metrics.lock().unwrap_or_else(PoisonError::into_inner));
    let mut tensors = Vec::new();
    for (id, segment) in (0..).zip(&job.plan.segments) {
        let SegmentContent::Tensor(tensor) = &segment.content else { continue };
        tensors.push(Compared {
            name: tensor.name.clone(),
            encoding: tensor.encoding.clone(),
            elements: tensor.elements,
            metrics: metrics.remove(&id).unwrap_or_default(),
        });
    }
    let planned: std::collections::BTreeSet<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    // Scales and the like have been compared with the weights that they belong to.
    let other = |tensor: &&StoredTensor| !planned.contains(tensor.name.as_str()) && tensor.weights != Some(0);
    let not_compared = reading.tensors.iter().filter(other);
    let not_compared = not_compared.map(|tensor| tensor.name.clone()).collect();
    let missing = job.plan.unused.iter().filter_map(|unused| model.tensors.get(unused.tensor as usize));
    let missing = missing.map(|tensor| tensor.name.clone()).collect();
    let warnings = checkpoint.warnings.iter().cloned().chain(warnings).chain(job.plan.warnings.iter().cloned());
    Ok(Comparison { source: checkpoint.root.clone(), tensors, not_compared, missing, warnings: warnings.collect() })
}

/// Whether a plan is one for comparing: tensors of the files where they are, and nothing else.
fn check_plan(plan: &Plan, reading: &Reading) -> Result<(), String> {
    let stored: BTreeMap<_, _> = reading.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    for segment in &plan.segments {
        let SegmentContent::Tensor(planned) = &segment.content else {
            return Err("it does not know how".into());
        };
        let same = stored.get(planned.name.as_str()).is_some_and(|stored| {
            (stored.file, stored.offset, stored.bytes) == (segment.file, segment.offset, segment.bytes)
        });
        if !same {
            return Err(format!("it plans {} otherwise than it is in the files", planned.name));
        }
    }
    Ok(())
}

fn run(job: &LoadedJob, shared: &Arc<Shared>, events: &dyn Events) -> Result<(), Error> {
    let weights = |unit: Option<u32>| {
        let tensors = job.plan.segments.iter().filter_map(|segment| match &segment.content {
            SegmentContent::Tensor(tensor) if unit.is_none_or(|unit| tensor.unit == unit) => Some(tensor.elements),
            _ => None,
        });
        tensors.fold(0, u64::saturating_add)
    };
    events.emit(Event::Started { weights: weights(None), units: job.plan.units.len() });
    for unit in &job.plan.units {
        let name = format!("unit {}", unit.unit);
        events.emit(Event::UnitStarted { name: &name });
        let comparing: Arc<dyn UnitServices> = Arc::new(Comparing(Arc::clone(shared)));
        job.run_unit((unit.unit, &name), &comparing, None)?;
        events.emit(Event::Progress { weights: weights(Some(unit.unit)) });
        events.emit(Event::UnitCommitted { name: &name });
    }
    Ok(())
}

/// What all units share.
struct Shared {
    sources: Sources,
    existing: Arc<Existing>,
    metrics: Mutex<BTreeMap<u32, BTreeMap<String, f64>>>,
}

/// One unit at work.
struct Comparing(Arc<Shared>);

impl UnitServices for Comparing {
    fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Borrowed, Failure> {
        self.0.sources.lend(tensor, first_row, rows)
    }

    fn take_back(&self, id: u64) {
        self.0.sources.take_back(id);
    }

    fn write(&self, _segment: u32, _offset: u64, _bytes: &[u8]) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::PLUGIN, "the plugin broke its contract: it wrote while it was to compare"))
    }

    fn metric(&self, segment: u32, key: &str, value: f64) {
        if value.is_finite() {
            let mut metrics = self.0.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.entry(segment).or_default().insert(key.to_owned(), value);
        }
    }

    fn progress(&self, _weights: u64) {}

    fn save(&self, _key: &str, _bytes: &[u8]) -> Result<(), Failure> {
        Err(Failure::unsupported("nothing is kept while files are compared"))
    }

    fn load(&self, _key: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(None)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        (name == EXISTING).then(|| Arc::<Existing>::clone(&self.0.existing) as _)
    }
}

/// The files, and how much of them was read since their pages were let go.
struct Existing {
    files: Vec<File>,
    read: AtomicU64,
}

impl FormatService for Existing {
    fn call(
        &self,
        method: &str,
        request: &str,
        _inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer, Failure> {
        if method != "read" {
            return Err(Failure::unsupported(format!("{EXISTING} has no method `{method}`")));
        }
        let ExistingRequest { file, offset, .. } = serde_json::from_str(request)
            .map_err(|error| Failure::internal(format!("not the request expected: {error}")))?;
        match outputs {
            [out] => self.read(file, offset, out.data)?,
            _ => return Err(Failure::internal(format!("{} outputs instead of one", outputs.len()))),
        }
        ServiceAnswer::new(&())
    }
}

impl Existing {
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
        let absent = || Failure::new(FailureKind::PLUGIN, "the plugin asked for bytes that are not in the files");
        let file = self.files.get(file as usize).ok_or_else(absent)?;
        let start = usize::try_from(offset).map_err(|_| absent())?;
        let end = start.checked_add(out.len()).ok_or_else(absent)?;
        out.copy_from_slice(file.mapping.bytes().get(start..end).ok_or_else(absent)?);
        let read = self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
        if read / KEPT != (read + out.len() as u64) / KEPT {
            self.files.iter().for_each(|file| file.mapping.release(0..u64::MAX));
        }
        Ok(())
    }
}
