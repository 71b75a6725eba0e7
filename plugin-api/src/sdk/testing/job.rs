//! A plugin and its jobs, run as the real host runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use super::{
    Result, TestHost, TestModel,
    activations::Activations,
    broken,
    objects::{self, MemoryUnit, Monitor, Progress},
};
use crate::{
    abi::{JobObject, PluginObject},
    documents::{
        CompanionContent, Description, Document, ExistingRequest, FilesRequest, Findings, Model, OpenRequest, Options,
        Plan, PlannedUnit, Reading, SegmentContent, SourceFile,
    },
    sdk::{DType, EXISTING, Format, FormatService, Operand, OperandMut, READER, ServiceAnswer, ServiceHandle, bridge},
};

/// A plugin that is connected to a [`TestHost`].
pub struct TestPlugin {
    host: TestHost,
    object: PluginObject,
}

/// A finished job.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Made {
    /// What was planned.
    pub plan: Plan,
    /// The files by name; that of a single-file output has the name `""`. Companions are among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The figures about segments, ordered by segment and key.
    pub metrics: Vec<Metric>,
    /// How many weights the plugin told to be done.
    pub weights: u64,
    /// What the units kept.
    pub saved: BTreeMap<String, Vec<u8>>,
    /// What the plugin found when it read the files back.
    pub findings: Findings,
}

/// A figure about a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The segment.
    pub segment: u32,
    /// What was measured.
    pub key: String,
    /// The figure.
    pub value: f64,
}

impl TestPlugin {
    pub(super) fn connect<F: Format>(host: TestHost) -> Result<Self> {
        // Not `bridge::connect`: that takes the panic hook and the loggers of the whole process.
        let object = bridge::plugin_object::<F>(&host.handle())?;
        Ok(Self { host, object })
    }

    /// A plugin that is connected to this host already: its object may come out of a library.
    #[must_use]
    pub fn of(object: PluginObject, host: TestHost) -> Self {
        Self { host, object }
    }

    /// What the formats can do.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn describe(&self) -> Result<Description> {
        Description::from_json(&self.object.describe().into_result()?)
    }

    /// Finds a service of the plugin.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceHandle> {
        ServiceHandle::found(self.object.query_interface(name.into()))
    }

    /// Plans a job.
    ///
    /// # Errors
    /// Fails when the plugin refuses, or when its plan is not sound.
    pub fn plan(&self, model: &TestModel, format: &str, options: Options) -> Result<Plan> {
        self.open(model, format, options).map(|(_, plan)| plan)
    }

    /// Does a whole job: plan, constants, every unit, check.
    ///
    /// # Errors
    /// Fails when the plugin does, or when it breaks the contract.
    pub fn make(&self, model: &TestModel, format: &str, options: Options) -> Result<Made> {
        self.make_request(model, &OpenRequest::new(format, options, model.model.clone()))
    }

    /// Does a whole job that is asked for in detail, such as a conversion.
    ///
    /// # Errors
    /// As [`TestPlugin::make`].
    pub fn make_request(&self, model: &TestModel, request: &OpenRequest) -> Result<Made> {
        self.make_watched(model, request, &mut |_| Ok(())).map(|(made, _)| made)
    }

    /// As [`TestPlugin::make_request`]; `after` is called after each unit. Gives the job, too.
    pub(super) fn make_watched(
        &self,
        model: &TestModel,
        request: &OpenRequest,
        after: &mut dyn FnMut(&PlannedUnit) -> Result<()>,
    ) -> Result<(Made, JobObject)> {
        let (job, plan) = self.open_request(model, request)?;
        let plan = Arc::new(plan);
        let progress = Arc::new(Mutex::new(Progress::default()));
        for unit in &plan.units {
            self.run_unit(&job, model, &plan, unit.unit, &progress)?;
            after(unit)?;
        }
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = assemble(&job, &plan, &progress)?;
        for companion in &plan.companions {
            let bytes = match &companion.content {
                CompanionContent::Copy(source) => model.companions.get(source).cloned(),
                CompanionContent::Text(text) => Some(text.clone().into_bytes()),
            };
            let bytes = bytes.ok_or_else(|| broken("it copies a companion that the model does not have"))?;
            files.insert(companion.name.clone(), bytes);
        }
        let findings = Findings::from_json(&job.check(objects::files_object(files.clone())).into_result()?)?;
        let mut metrics = std::mem::take(&mut progress.metrics);
        metrics.sort_by(|a, b| (a.segment, &a.key).cmp(&(b.segment, &b.key)));
        let saved = std::mem::take(&mut progress.saved);
        Ok((Made { plan: (*plan).clone(), files, metrics, weights: progress.weights, saved, findings }, job))
    }

    /// Compares files of a format with a model, as `verify --against` does: the plugin reads them (`reader/1`), opens
    /// a job with [`OpenRequest::existing`] and runs its units. Gives the plan, and the figures about its segments.
    ///
    /// # Errors
    /// Fails when the plugin does, or when it breaks the contract.
    pub fn compare(
        &self,
        model: &TestModel,
        format: &str,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(Plan, Vec<Metric>)> {
        let reader = self.service(READER).ok_or_else(|| broken(format!("it has no {READER}")))?;
        let described = files.iter().map(|(name, bytes)| SourceFile::new(name.clone(), bytes.len() as u64));
        let asked = FilesRequest::new(described.collect());
        let views: Vec<_> = files
            .values()
            .map(|bytes| Operand { dtype: DType::U8, rows: 1, row_elements: bytes.len() as u64, data: bytes })
            .collect();
        let reading: Reading = reader.call("open", &asked, &views, &mut [])?.value()?;
        let mut request = OpenRequest::new(format, Options::default(), model.model.clone());
        request.existing = Some(reading);
        let (job, plan) = self.open_request(model, &request)?;
        let plan = Arc::new(plan);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let existing = ExistingBytes(files.values().cloned().collect());
        let host = self.host.clone().service(EXISTING, existing);
        for unit in &plan.units {
            Self::run_one(&host, &job, model, &plan, unit.unit, &progress)?;
        }
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !progress.segments.is_empty() {
            return Err(broken("it wrote while it was to compare"));
        }
        let mut metrics = std::mem::take(&mut progress.metrics);
        metrics.sort_by(|a, b| (a.segment, &a.key).cmp(&(b.segment, &b.key)));
        Ok(((*plan).clone(), metrics))
    }

    fn open(&self, model: &TestModel, format: &str, options: Options) -> Result<(JobObject, Plan)> {
        self.open_request(model, &OpenRequest::new(format, options, model.model.clone()))
    }

    pub(super) fn open_request(&self, model: &TestModel, request: &OpenRequest) -> Result<(JobObject, Plan)> {
        let request = request.to_json()?;
        let companions = objects::files_object(model.companions.clone());
        let job = self.object.open(request.as_str().into(), companions).into_result()?;
        let text = job.plan().into_result()?;
        if job.plan().into_result()? != text {
            return Err(broken("its plan is another at the second call"));
        }
        let plan = Plan::from_json(&text)?;
        check_plan(&plan, &model.model)?;
        Ok((job, plan))
    }

    /// Opens a job that gives weights out of files; it has no plan worth looking at.
    pub(super) fn decoder(&self, model: &TestModel, request: &OpenRequest) -> Result<JobObject> {
        let request = request.to_json()?;
        self.object.open(request.as_str().into(), objects::files_object(model.companions.clone())).into_result()
    }

    fn run_unit(
        &self,
        job: &JobObject,
        model: &TestModel,
        plan: &Arc<Plan>,
        unit: u32,
        progress: &Arc<Mutex<Progress>>,
    ) -> Result<()> {
        Self::run_one(&self.host, job, model, plan, unit, progress)?;
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, segment) in (0..).zip(&plan.segments) {
            let SegmentContent::Tensor(tensor) = &segment.content else { continue };
            let whole = segment.bytes == 0 || progress.segments.get(&index).is_some_and(objects::Piece::is_whole);
            if tensor.unit == unit && !whole {
                return Err(broken(format!("it did not write all of {}", tensor.name)));
            }
        }
        let saving = std::mem::take(&mut progress.saving);
        progress.saved.extend(saving);
        Ok(())
    }

    /// Runs a unit, and sees to it that it gives everything back.
    fn run_one(
        host: &TestHost,
        job: &JobObject,
        model: &TestModel,
        plan: &Arc<Plan>,
        unit: u32,
        progress: &Arc<Mutex<Progress>>,
    ) -> Result<()> {
        let monitor = Arc::new(Monitor::default());
        let described = Arc::new(model.model.clone());
        let planned = plan.units.iter().find(|planned| planned.unit == unit).cloned();
        let planned = planned.unwrap_or_else(|| PlannedUnit::new(unit));
        let (shared, weights) = (Arc::clone(&described), Arc::clone(&model.weights));
        let activations = Activations::new(planned, shared, weights, Arc::clone(&monitor));
        let outcome = job.run_unit(
            unit,
            objects::unit_object(MemoryUnit {
                unit,
                host: host.clone(),
                model: described,
                weights: Arc::clone(&model.weights),
                plan: Arc::clone(plan),
                progress: Arc::clone(progress),
                monitor: Arc::clone(&monitor),
                activations,
            }),
        );
        monitor.ended.store(true, Ordering::Relaxed);
        let outcome = outcome.into_result();
        let kept = match (monitor.leases.load(Ordering::Relaxed), host.granted()) {
            (0, 0) => return outcome,
            (0, _) => "granted memory",
            _ => "rows",
        };
        let failed = outcome.err().map_or_else(String::new, |failure| format!(", which failed ({failure})"));
        Err(broken(format!("it kept {kept} after unit {unit}{failed}")))
    }
}

/// The service `existing/1` over files in memory.
struct ExistingBytes(Vec<Vec<u8>>);

impl FormatService for ExistingBytes {
    fn call(
        &self,
        method: &str,
        request: &str,
        _inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let asked: ExistingRequest = serde_json::from_str(request).map_err(|error| broken(error.to_string()))?;
        let bytes = self.0.get(asked.file as usize).zip(usize::try_from(asked.offset).ok());
        match (method, outputs) {
            ("read", [out]) => {
                let there = bytes.and_then(|(bytes, start)| bytes.get(start..)?.get(..out.data.len()));
                out.data.copy_from_slice(there.ok_or_else(|| broken("it read bytes that are not in the files"))?);
                ServiceAnswer::new(&())
            }
            _ => Err(broken(format!("it called {EXISTING} with `{method}`"))),
        }
    }
}

/// Puts the files together.
fn assemble(job: &JobObject, plan: &Plan, progress: &Progress) -> Result<BTreeMap<String, Vec<u8>>> {
    let too_large = |_| broken("a file is too large for a test");
    let mut files = Vec::new();
    for file in &plan.files {
        files.push(vec![0; usize::try_from(file.bytes).map_err(too_large)?]);
    }
    for (index, segment) in (0..).zip(&plan.segments) {
        let constant;
        let bytes = match &segment.content {
            SegmentContent::Constant { label } => {
                constant = job.constant(index).into_result()?;
                if constant.len() as u64 != segment.bytes {
                    return Err(broken(format!("{label} has {} bytes, not {}", constant.len(), segment.bytes)));
                }
                constant.as_slice()
            }
            SegmentContent::Tensor(_) => progress.segments.get(&index).map_or(&[][..], |piece| &piece.bytes),
        };
        // In the file: `check_plan` has seen to that.
        let start = usize::try_from(segment.offset).map_err(too_large)?;
        files[segment.file as usize][start..start + bytes.len()].copy_from_slice(bytes);
    }
    Ok(plan.files.iter().map(|file| file.name.clone()).zip(files).collect())
}

/// What the real host checks too: ranges, units, and that no source tensor is dropped.
fn check_plan(plan: &Plan, model: &Model) -> Result<()> {
    let mut ranges = Vec::new();
    let mut accounted: BTreeSet<u32> = plan.unused.iter().map(|unused| unused.tensor).collect();
    for (index, segment) in plan.segments.iter().enumerate() {
        let file = plan.files.get(segment.file as usize);
        let end = segment.offset.checked_add(segment.bytes);
        if file.zip(end).is_none_or(|(file, end)| end > file.bytes) {
            return Err(broken(format!("segment {index} is not within its file")));
        }
        ranges.push((segment.file, segment.offset, segment.bytes));
        if let SegmentContent::Tensor(tensor) = &segment.content {
            if !plan.units.iter().any(|unit| unit.unit == tensor.unit) {
                return Err(broken(format!("{} belongs to a unit that is not planned", tensor.name)));
            }
            accounted.extend(&tensor.sources);
        }
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 + pair[0].2 > pair[1].1) {
        return Err(broken("two segments overlap"));
    }
    match (0..).zip(&model.tensors).find(|(id, _)| !accounted.contains(id)) {
        Some((_, dropped)) => Err(broken(format!("it neither uses {} nor lists it as unused", dropped.name))),
        None => Ok(()),
    }
}
