//! Carrying a plan out: unit after unit, with the next one being read and the last one being made
//! durable at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use qhost_plugin_api::documents::{Check, CheckStatus, CompanionContent, Findings, Plan, SegmentContent, UnitKind};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{
    Error, Event, Events, Outcome, Prepared, Resumed, TensorOutcome,
    commit::{self, Commit, Committer},
    files::OutputFiles,
    journal::{Journal, SavedBlob, UnitRecord},
    prepare,
    unit::{Remains, Shared, UnitWork},
};
use crate::{
    stream::{Lender, Placement},
    write::{self, Error as WriteError, ReservedFiles, WorkFolder},
};

/// A finished run whose work folder is still there.
///
/// The caller writes what belongs beside the output (the report) and then tidies up; if the process
/// ends before that, the next run with the same request does it.
#[derive(Debug)]
pub struct Finished {
    /// What was made.
    pub outcome: Outcome,
    work: WorkFolder,
}

impl Finished {
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
    /// Carries the plan out, going on from an earlier run's work if there is some.
    ///
    /// # Errors
    /// Fails with the first thing that goes wrong; finished units are kept for the next run.
    pub fn execute(self, events: &Arc<dyn Events>) -> Result<Finished, Error> {
        let began = Instant::now();
        for warning in &self.warnings {
            events.emit(Event::Warning(warning));
        }
        let published = prepare::is_published(&self.target, &self.start);
        let work = WorkFolder::open(&self.target)?;
        let mut journal = self.open_journal(&work, events)?;
        if published && journal.complete {
            return Ok(self.finished(work, &journal, began, findings_of_earlier_run()));
        }
        let run = Run::new(&self, &work, events)?;
        if journal.start.is_none() {
            journal.begin(self.start.clone()).map_err(journal_error(&journal))?;
        }
        let done = run.sound_units(&journal, events)?;
        let resumed = run.announce(&done, events);
        run.make_constants(&mut journal, &done)?;
        run.make_units(&mut journal, &done)?;
        run.write_companions()?;
        events.emit(Event::Checking);
        let findings = run.check(&journal)?;
        if !journal.complete {
            journal.finish().map_err(journal_error(&journal))?;
        }
        drop(run);
        write::publish(&work, &self.target)?;
        events.emit(Event::Published);
        let mut finished = self.finished(work, &journal, began, findings);
        finished.outcome.resumed = resumed;
        Ok(finished)
    }

    /// Opens the journal; what was made for another key, or is unwanted, is thrown away first.
    fn open_journal(&self, work: &WorkFolder, events: &Arc<dyn Events>) -> Result<Journal, Error> {
        let open = || {
            let path = work.journal();
            Journal::open(&path).map_err(|source| Error::Journal { path: path.display().to_string(), source })
        };
        let journal = open()?;
        let reason = match &journal.start {
            None => None,
            Some(_) if self.fresh => Some("a fresh start was asked for"),
            Some(start) if start.key != self.start.key => Some(start.difference(&self.start)),
            Some(_) => return Ok(journal),
        };
        if let Some(reason) = reason {
            events.emit(Event::Discarding { reason });
        }
        drop(journal);
        work.clear()?;
        open()
    }

    fn finished(&self, work: WorkFolder, journal: &Journal, began: Instant, findings: Findings) -> Finished {
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
            metrics: by_segment.remove(&segment).unwrap_or_default(),
        });
        let manifest = &self.plugin.manifest;
        let outcome = Outcome {
            path: self.target.path(),
            format: self.plan.plan.format.clone(),
            level: self.plan.plan.level.clone(),
            source: self.checkpoint.root.clone(),
            architecture: self.model.family.clone(),
            parameters: self.plan.parameters,
            source_bytes: self.checkpoint.weight_bytes(),
            file_bytes: self.plan.file_bytes,
            tensors: tensors.collect(),
            findings,
            warnings: self.warnings.clone(),
            resumed: None,
            duration: began.elapsed(),
            plugin: (manifest.id.clone(), manifest.version.clone(), self.plugin.sha256.clone()),
            peak_granted: self.settings.ledger.peak(),
        };
        Finished { outcome, work }
    }
}

/// The findings of a run that had published its output already: it did so only after the check.
fn findings_of_earlier_run() -> Findings {
    let detail = "passed before the output was put in place by the interrupted run";
    Findings::new(vec![Check::passed("earlier run", detail)])
}

fn journal_error(journal: &Journal) -> impl FnOnce(std::io::Error) -> Error {
    let path = journal.path().display().to_string();
    move |source| Error::Journal { path, source }
}

/// For every unit the newest record: a unit is made again if its bytes were found damaged.
fn last_records(journal: &Journal) -> BTreeMap<Option<u32>, &UnitRecord> {
    journal.units.iter().map(|record| (record.unit, record)).collect()
}

/// Units whose bytes are on the disk as the journal says.
type Done = BTreeSet<Option<u32>>;

struct Run<'a> {
    prepared: &'a Prepared,
    plan: &'a Plan,
    work: &'a WorkFolder,
    files: Arc<ReservedFiles>,
    shared: Arc<Shared>,
    events: &'a Arc<dyn Events>,
}

impl<'a> Run<'a> {
    fn new(prepared: &'a Prepared, work: &'a WorkFolder, events: &'a Arc<dyn Events>) -> Result<Self, Error> {
        let plan = &prepared.plan.plan;
        let files = Arc::new(ReservedFiles::open(&work.files(), &plan.files)?);
        let shared = Arc::new(Shared {
            model: Arc::clone(&prepared.model),
            plan: plan.clone(),
            lender: lender(prepared),
            files: Arc::clone(&files),
            blob_folder: work.blobs(),
            events: Arc::clone(events),
        });
        Ok(Self { prepared, plan, work, files, shared, events })
    }

    /// Holds the records of earlier runs against the bytes on the disk.
    fn sound_units(&self, journal: &Journal, events: &Arc<dyn Events>) -> Result<Done, Error> {
        let mut done = Done::new();
        for (unit, record) in last_records(journal) {
            let expected = commit::segments_of(self.plan, unit).collect::<Vec<_>>();
            let recorded = record.segments.iter().map(|segment| segment.segment);
            let same_segments = recorded.eq(expected);
            if same_segments && self.matches(record)? {
                done.insert(unit);
            } else {
                let name = unit.map_or_else(|| "header".to_owned(), |unit| self.name_of(unit));
                events.emit(Event::Warning(&format!("{name} is made again: its bytes on the disk are damaged")));
            }
        }
        Ok(done)
    }

    fn matches(&self, record: &UnitRecord) -> Result<bool, Error> {
        let compare = |segment: &super::journal::SegmentDigest| {
            Ok(commit::digest(&self.files, self.plan, segment.segment)? == segment.xxh3)
        };
        let compared: Result<Vec<bool>, WriteError> =
            self.prepared.settings.pool.install(|| (&record.segments).into_par_iter().map(compare).collect());
        Ok(compared?.into_iter().all(|same| same))
    }

    fn announce(&self, done: &Done, events: &Arc<dyn Events>) -> Option<Resumed> {
        let planned = &self.prepared.plan.unit_weights;
        let weights = |of_done: bool| {
            let units = planned.iter().filter(|(unit, _)| !of_done || done.contains(&Some(*unit)));
            units.map(|(_, weights)| weights).sum()
        };
        events.emit(Event::Started { weights: weights(false), units: planned.len() });
        if done.is_empty() {
            return None;
        }
        let next = planned.iter().find(|(unit, _)| !done.contains(&Some(*unit)));
        let from = next.map(|(unit, _)| self.name_of(*unit));
        let count = planned.iter().filter(|(unit, _)| done.contains(&Some(*unit))).count();
        events.emit(Event::Resuming { done: count, of: planned.len(), weights: weights(true), next: from.as_deref() });
        Some(Resumed { done: count, of: planned.len(), from })
    }

    fn make_constants(&self, journal: &mut Journal, done: &Done) -> Result<(), Error> {
        if done.contains(&None) {
            return Ok(());
        }
        for id in commit::segments_of(self.plan, None) {
            let segment = &self.plan.segments[id as usize];
            let SegmentContent::Constant { label, .. } = &segment.content else { continue };
            let bytes = self.prepared.job.constant(id)?;
            if bytes.len() as u64 != segment.bytes {
                return Err(Error::WrongConstant {
                    plugin: self.prepared.plugin.manifest.id.clone(),
                    label: label.clone(),
                    actual: bytes.len() as u64,
                    planned: segment.bytes,
                });
            }
            self.files.write_at(segment.file, segment.offset, &bytes)?;
        }
        let remains = Remains { metrics: Vec::new(), saved: Vec::new() };
        self.committer(journal).commit(Commit { unit: None, name: "header".into(), remains })
    }

    fn make_units(&self, journal: &mut Journal, done: &Done) -> Result<(), Error> {
        let todo: Vec<u32> =
            self.plan.units.iter().map(|unit| unit.unit).filter(|unit| !done.contains(&Some(*unit))).collect();
        let saved_before: BTreeMap<String, SavedBlob> =
            journal.saved().into_iter().map(|(key, blob)| (key.to_owned(), blob.clone())).collect();
        let committer = self.committer(journal);
        // Room for one: making units may run ahead of the disk by two, not by many.
        let (commits, inbox) = mpsc::sync_channel(1);
        let (wishes, wish_list) = mpsc::channel::<u32>();
        thread::scope(|scope| {
            let committer = scope.spawn(move || committer.commit_all(&inbox));
            scope.spawn(move || self.prefetch_all(&wish_list));
            let made = self.make_each(&todo, saved_before, &wishes, &commits);
            drop((wishes, commits));
            let committed = committer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // If the disk failed, what the maker saw is only its consequence.
            committed.and(made)
        })
    }

    fn make_each(
        &self,
        todo: &[u32],
        mut saved: BTreeMap<String, SavedBlob>,
        wishes: &mpsc::Sender<u32>,
        commits: &mpsc::SyncSender<Commit>,
    ) -> Result<(), Error> {
        // Nobody minds a wish that is not heard: the unit is then read when it is touched.
        let _ = todo.first().map(|first| wishes.send(*first));
        for (index, &unit) in todo.iter().enumerate() {
            if self.prepared.settings.cancel.is_cancelled() {
                return Err(self.interrupted());
            }
            let _ = todo.get(index + 1).map(|next| wishes.send(*next));
            let name = self.name_of(unit);
            self.events.emit(Event::UnitStarted { name: &name });
            let remains = self.make(unit, saved.clone())?;
            saved.extend(remains.saved.iter().map(|blob| (blob.key.clone(), blob.clone())));
            if commits.send(Commit { unit: Some(unit), name, remains }).is_err() {
                // The committer has ended, and says why when it is joined.
                return Err(self.interrupted());
            }
        }
        Ok(())
    }

    fn make(&self, unit: u32, loadable: BTreeMap<String, SavedBlob>) -> Result<Remains, Error> {
        let services = Arc::new(UnitWork::new(Arc::clone(&self.shared), unit, loadable));
        let outcome = self.prepared.job.run_unit(unit, Arc::<UnitWork>::clone(&services) as _);
        let remains = services.close();
        match outcome {
            Err(error) if error.is_cancelled() => Err(self.interrupted()),
            Err(error) => Err(error.into()),
            Ok(()) => {
                remains.map_err(|tensor| Error::Incomplete { plugin: self.prepared.plugin.manifest.id.clone(), tensor })
            }
        }
    }

    /// Asks for the sources of the units on the list, as they come.
    fn prefetch_all(&self, units: &mpsc::Receiver<u32>) {
        for unit in units {
            for segment in &self.plan.segments {
                match &segment.content {
                    SegmentContent::Tensor(tensor) if tensor.unit == unit => {
                        tensor.sources.iter().for_each(|&source| self.shared.lender.prefetch(source));
                    }
                    _ => {}
                }
            }
        }
    }

    fn write_companions(&self) -> Result<(), Error> {
        let folder = self.work.files();
        for companion in &self.plan.companions {
            let path = folder.join(&companion.name);
            match &companion.content {
                CompanionContent::Text(text) => write::write_atomically(&path, text.as_bytes())?,
                CompanionContent::Copy(name) => {
                    let companions = &self.prepared.checkpoint.companions;
                    let Some(source) = companions.iter().find(|file| file.name == *name) else { continue };
                    let bytes = fs::read(&source.path).map_err(|source| Error::SourceUnreadable { source })?;
                    write::write_atomically(&path, &bytes)?;
                }
                // No other kind of content is read from a plan.
                _ => {}
            }
        }
        Ok(())
    }

    /// Re-reads everything: that the bytes are those that were made, and that they are a sound output.
    fn check(&self, journal: &Journal) -> Result<Findings, Error> {
        for record in last_records(journal).into_values() {
            if !self.matches(record)? {
                let name = record.unit.map_or_else(|| "header".to_owned(), |unit| self.name_of(unit));
                return Err(Error::CheckFailed {
                    detail: format!("{name} reads back differently from how it was written"),
                });
            }
        }
        let mut findings = self.prepared.job.check(Arc::new(OutputFiles(Arc::clone(&self.files))))?;
        let detail = format!("{} segments read back as they were written", self.plan.segments.len());
        findings.checks.insert(0, Check::passed("bytes", detail));
        match findings.checks.iter().find(|check| check.status == CheckStatus::Failed) {
            Some(failed) => Err(Error::CheckFailed { detail: format!("{}: {}", failed.name, failed.detail) }),
            None => Ok(findings),
        }
    }

    fn committer<'b>(&'b self, journal: &'b mut Journal) -> Committer<'b> {
        let cancel = &self.prepared.settings.cancel;
        Committer { plan: self.plan, files: &self.files, journal, events: self.events, cancel }
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { checkpoint: self.work.path().display().to_string() }
    }

    fn name_of(&self, unit: u32) -> String {
        let model = &self.prepared.model;
        let info = model.units.iter().find(|info| info.id == unit);
        match info.map(|info| (info.kind, info.layer)) {
            Some((UnitKind::Prologue, _)) => "embedding".into(),
            Some((UnitKind::Epilogue, _)) => "head".into(),
            Some((UnitKind::Layer, Some(layer))) => format!("layer {} of {}", layer + 1, model.hyperparameters.layers),
            _ => format!("unit {unit}"),
        }
    }
}

/// Where the model's tensors lie in the mapped files.
fn lender(prepared: &Prepared) -> Lender {
    let files = prepared.checkpoint.shards.iter().map(|shard| Arc::clone(&shard.mapping)).collect();
    let tensors = prepared.model.tensors.iter().zip(&prepared.stored).map(|(tensor, &index)| {
        let stored = &prepared.checkpoint.tensors[index];
        let rows = tensor.rows();
        Placement {
            file: stored.shard,
            offset: stored.offset,
            rows,
            row_bytes: stored.bytes.checked_div(rows).unwrap_or(0),
        }
    });
    Lender::new(files, tensors.collect())
}
