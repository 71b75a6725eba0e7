//! What is there when all units are made: the output that is yet to be put in its place, and then the finished run.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use qhost_plugin_api::documents::{Check, Findings};

use super::{
    Error, Event, Events, Outcome, Prepared, Resumed, TensorOutcome, card,
    execute::last_records,
    journal::{Contents, Journal},
    unit,
};
use crate::{
    source::{self, Origin},
    write::{self, WorkFolder},
};

/// A run whose output is made and checked.
pub(super) struct Made {
    prepared: Prepared,
    work: WorkFolder,
    journal: Journal,
    findings: Findings,
    resumed: Option<Resumed>,
    /// The time that it took so far.
    duration: Duration,
    /// Whether an earlier run has put it in its place.
    is_in_place: bool,
}

impl Made {
    /// Made and checked by this run.
    pub(super) fn now(
        prepared: Prepared,
        work: WorkFolder,
        journal: Journal,
        findings: Findings,
        resumed: Option<Resumed>,
        duration: Duration,
    ) -> Self {
        Self { prepared, work, journal, findings, resumed, duration, is_in_place: false }
    }

    /// Made by an earlier run, and in its place.
    pub(super) fn earlier(prepared: Prepared, work: WorkFolder, journal: Journal, duration: Duration) -> Self {
        let findings = findings_of_earlier_run();
        Self { prepared, work, journal, findings, resumed: None, duration, is_in_place: true }
    }

    /// Refuses to put the output where something has come that may not be replaced.
    pub(super) fn look_at_place(&self) -> Result<(), Error> {
        let Prepared { target, force, .. } = &self.prepared;
        if self.is_in_place || *force || !target.is_occupied() {
            return Ok(());
        }
        Err(write::Error::Appeared { path: target.path() }.into())
    }

    /// Puts the output in its place.
    pub(super) fn publish(&mut self, events: &Arc<dyn Events>) -> Result<(), Error> {
        if !self.is_in_place {
            let began = Instant::now();
            write::publish(&self.work, &self.prepared.target, self.prepared.force)?;
            events.emit(Event::Published);
            self.duration += began.elapsed();
        }
        Ok(())
    }

    /// Ends the run, but for what the caller puts beside the output.
    pub(super) fn finish(self) -> Result<Finished, Error> {
        let Self { prepared, work, journal, findings, resumed, duration, .. } = self;
        let outcome = prepared.outcome(&journal.contents, findings, resumed, duration);
        let beside = prepared.make_beside(&work, &journal.contents)?;
        Ok(Finished { outcome, work, beside })
    }
}

/// A finished run whose work folder is still there.
///
/// The caller writes what belongs beside the output (the report) and then tidies up; if the process
/// ends before that, the next run with the same request does it.
#[derive(Debug)]
pub struct Finished {
    /// What was made.
    pub outcome: Outcome,
    work: WorkFolder,
    /// What is put beside the output: names and bytes.
    beside: Vec<(String, Vec<u8>)>,
}

impl Finished {
    /// Writes a small file beside the output, or into it if it is a folder; gives its path.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let output = &self.outcome.path;
        let path = if output.is_dir() { output.join(name) } else { output.with_file_name(name) };
        self.work.put(&path, bytes)?;
        Ok(path)
    }

    /// Writes what the plugin made beside the output; gives the paths.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn put_beside(&self) -> Result<Vec<PathBuf>, Error> {
        self.beside.iter().map(|(name, bytes)| self.put(name, bytes)).collect()
    }

    /// Writes the model card, if there is to be one and nothing else has come into its place; gives its path.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn put_card(&self) -> Result<Option<PathBuf>, Error> {
        let name = self.outcome.card.as_ref().filter(|name| !card::in_the_way(&self.outcome.path, name));
        name.map(|name| self.put(name, card::text(&self.outcome).as_bytes())).transpose()
    }

    /// Empties the work folder, but for what tells that the work is done.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn empty(&self) -> Result<(), Error> {
        Ok(self.work.empty()?)
    }

    /// Removes the work folder.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn tidy_up(self) -> Result<Outcome, Error> {
        self.work.remove()?;
        Ok(self.outcome)
    }
}

impl Prepared {
    fn outcome(&self, journal: &Contents, findings: Findings, resumed: Option<Resumed>, duration: Duration) -> Outcome {
        let metrics = last_records(journal).into_values().flat_map(|record| &record.metrics);
        let mut by_segment: BTreeMap<u32, BTreeMap<String, f64>> = BTreeMap::new();
        for metric in metrics {
            by_segment.entry(metric.segment).or_default().insert(metric.key.clone(), metric.value);
        }
        let tensors = self.plan.tensors().map(|(segment, bytes, tensor)| TensorOutcome {
            name: tensor.name.clone(),
            encoding: tensor.encoding.clone(),
            elements: tensor.elements,
            bytes,
            fallback: tensor.fallback.clone(),
            instead_of: tensor.instead_of.clone(),
            metrics: by_segment.remove(&segment).unwrap_or_default(),
        });
        let manifest = &self.plugin.manifest;
        Outcome {
            path: self.target.path(),
            entry: self.plan.plan.output.entry.clone(),
            format: self.plan.plan.format.clone(),
            level: self.plan.plan.level.clone(),
            source: self.input.root().to_owned(),
            model: self.model.name.clone(),
            published: Origin::of(self.input.root()),
            source_card: source::readme(self.input.root()),
            origin: self.input.origin().cloned(),
            converted: self.converted(),
            architecture: self.model.family.clone(),
            parameters: self.plan.parameters,
            source_bytes: self.input.weight_bytes(),
            file_bytes: self.plan.file_bytes,
            level_bytes: self.plan.plan.level_bytes,
            library: self.plan.plan.library.clone(),
            usage: self.plan.plan.usage.clone(),
            tensors: tensors.collect(),
            unused: self.unused(),
            findings,
            warnings: self.warnings.clone(),
            lasting_warnings: self.lasting_warnings.clone(),
            calibration: self.samples.as_ref().map(|samples| samples.description.clone()),
            options: self.options.clone(),
            data: self.data.clone(),
            threads: self.settings.threads(),
            max_memory: self.settings.ledger.limit(),
            estimate: self.estimate,
            card: self.card.clone(),
            resumed,
            duration,
            plugin: (manifest.id.clone(), manifest.version.clone(), self.plugin.sha256.clone()),
            peak_granted: self.settings.ledger.peak(),
        }
    }

    /// The files beside the output, made of what the units saved.
    fn make_beside(&self, work: &WorkFolder, journal: &Contents) -> Result<Vec<(String, Vec<u8>)>, Error> {
        if self.beside.is_empty() {
            return Ok(Vec::new());
        }
        let blobs = work.blobs();
        let records = last_records(journal);
        let saved = records.values().flat_map(|record| &record.saved).map(|blob| {
            let damaged = || Error::CheckFailed { detail: format!("what was saved as {} is damaged", blob.key) };
            Ok((blob.key.clone(), unit::sound_blob(&blobs, blob).ok_or_else(damaged)?))
        });
        let saved = saved.collect::<Result<Vec<_>, Error>>()?;
        let named = self.beside.iter().zip(&self.plan.plan.beside);
        named.map(|(name, suffix)| Ok((name.clone(), self.job.beside(suffix, &saved)?))).collect()
    }
}

/// The findings of a run that had published its output already: it did so only after the check.
fn findings_of_earlier_run() -> Findings {
    let detail = "passed before the output was put in place by the interrupted run";
    Findings::new(vec![Check::passed("earlier run", detail)])
}
