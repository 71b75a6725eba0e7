//! Carrying a plan out: unit after unit, with the next one being read and the last one being made
//! durable at the same time.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
};

use qhost_plugin_api::documents::{
    Check, CheckStatus, CompanionContent, Findings, Model, Plan, SegmentContent, UnitKind, UnitOrder,
};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{
    Error, Event, Events, Finished, Prepared, Resumed, Sources,
    at_work::{AtWork, Ended},
    calibrated::Running,
    commit::{self, Commit, Committer},
    files::OutputFiles,
    finished::Made,
    journal::{Contents, Journal, SavedBlob, SegmentDigest, Start, UnitRecord},
    turns::{Place, Stopped, Turn},
    unit::{self, Remains, Shared, UnitWork},
};
use crate::{
    calibrate, plan,
    plugin::{self, Quarantine, UnitServices},
    write::{self, ReservedFiles, WorkFolder},
};

impl Prepared {
    /// Carries the plan out, going on from an earlier run's work if there is some.
    ///
    /// # Errors
    /// Fails with the first thing that goes wrong; finished units are kept for the next run.
    pub fn execute(self, events: &Arc<dyn Events>) -> Result<Finished, Error> {
        for warning in &self.warnings {
            events.emit(Event::Warning(warning));
        }
        let mut made = self.make(&Turn::alone(), events)?;
        made.publish(events)?;
        made.finish()
    }

    /// Makes the output and checks it, without putting it in its place. Units are made when it is their turn.
    pub(super) fn make(mut self, turn: &Turn, events: &Arc<dyn Events>) -> Result<Made, Error> {
        turn.wait_at(Place::default()).map_err(|Stopped| self.interrupted())?;
        let work = WorkFolder::open(&self.target)?;
        let last = AtWork::last(&work);
        let mut journal = self.open_journal(&work, last.as_ref(), events)?;
        self.settle(&work, &journal.contents)?;
        if journal.contents.complete && !write::unpublished(work.path(), self.target.kind).exists() {
            if self.is_in_place(&journal.contents) {
                turn.finish();
                return Ok(Made::earlier(self, work, journal, turn.worked()));
            }
            // It was moved away or changed since: that is the user's affair, and the journal tells nothing more.
            drop(journal);
            work.clear()?;
            journal = open_journal(&work)?;
        }
        if !self.force && self.target.is_occupied() {
            if journal.contents.start.is_none() {
                // Nothing is done that is worth keeping.
                work.remove()?;
            }
            return Err(plan::Error::Exists { path: self.target.path() }.into());
        }
        if let Err(error) = self.input.fetch(events) {
            if journal.contents.start.is_none() {
                work.remove()?;
            }
            return Err(error);
        }
        let at_work = Arc::new(AtWork::begin(&work, &self.plugin));
        let mut pass = 0;
        if self.is_provisional() {
            self.begin(&work, &mut journal)?;
            self.survey((&work, &at_work), &mut journal, turn, events)?;
            pass = 1;
        }
        let run = Run::new(&self, (&work, &at_work), turn, pass, events)?;
        self.begin(&work, &mut journal)?;
        let done = run.sound_units(&journal.contents)?;
        let resumed = run.announce(&done);
        run.make_constants(&mut journal)?;
        run.make_units(&mut journal, &done)?;
        run.write_companions()?;
        events.emit(Event::Checking);
        let findings = run.check(&journal.contents)?;
        if !journal.contents.complete {
            journal.finish().map_err(journal_error(&journal))?;
        }
        drop(run);
        turn.finish();
        Ok(Made::now(self, work, journal, findings, resumed, turn.worked()))
    }

    /// What is told when a run ends before its work is done.
    pub(super) fn interrupted(&self) -> Error {
        Error::Interrupted { checkpoint: self.target.work_folder().display().to_string() }
    }

    /// The place before a unit is made, where runs take turns.
    pub(super) fn place_of(&self, unit: u32, pass: u32) -> Place {
        let before = self.model.units.iter().position(|info| info.id == unit);
        Place { pass, position: 1 + before.unwrap_or(self.model.units.len()) }
    }

    /// Begins the journal, if that is not done.
    fn begin(&self, work: &WorkFolder, journal: &mut Journal) -> Result<(), Error> {
        if journal.contents.start.is_none() {
            journal.begin(self.start.clone()).map_err(journal_error(journal))?;
            write::sync_folder(work.path())?;
        }
        Ok(())
    }

    /// Opens the journal; what was made for another key, or is unwanted, is thrown away first. `last` is how the last run
    /// ended that it tells of.
    fn open_journal(
        &self,
        work: &WorkFolder,
        last: Option<&Ended>,
        events: &Arc<dyn Events>,
    ) -> Result<Journal, Error> {
        let mut journal = open_journal(work)?;
        match last.filter(|_| journal.contents.start.is_some()) {
            Some(Ended::Crashed(verdict)) => {
                let sentence = verdict.sentence();
                events.emit(Event::Warning(&format!("the last run ended early because {sentence}")));
            }
            Some(Ended::Silently(moment)) => tracing::info!("the last run was ended when {}", moment.sentence()),
            None => {}
        }
        let reason = match &journal.contents.start {
            None => None,
            Some(_) if self.fresh => Some("a fresh start was asked for"),
            Some(start) if self.replaces_crashed(start, last)? => {
                // What the former build has finished is sound: it was digested when it was made durable.
                journal.begin(self.start.clone()).map_err(journal_error(&journal))?;
                return Ok(journal);
            }
            Some(start) if start.key != self.start.key => Some(start.difference(&self.start)),
            Some(_) => return Ok(journal),
        };
        if let Some(reason) = reason {
            events.emit(Event::Discarding { reason });
        }
        drop(journal);
        work.clear()?;
        open_journal(work)
    }

    /// Whether work was begun for the same plan by a build of the plugin that has crashed since.
    fn replaces_crashed(&self, start: &Start, last: Option<&Ended>) -> Result<bool, Error> {
        let former = &start.plugin_sha256;
        let crashed = matches!(last, Some(Ended::Crashed(verdict)) if verdict.sha256 == *former)
            || Quarantine::of_process().is_some_and(|quarantine| quarantine.verdict(former).is_some());
        Ok(crashed && *former != self.start.plugin_sha256 && start.key == self.key_with(former)?)
    }

    /// The key that the work would have with another build of the plugin.
    fn key_with(&self, plugin_sha256: &str) -> Result<String, Error> {
        Ok(self.plan.key(&self.options, &self.start.source, plugin_sha256, &self.data_key)?)
    }

    /// Whether the output is in its place with the bytes that the journal tells.
    fn is_in_place(&self, journal: &Contents) -> bool {
        let plan = &self.plan.plan;
        let Ok(files) = ReservedFiles::published(&self.target, &plan.files) else { return false };
        let segments = last_records(journal).into_values().flat_map(|record| &record.segments);
        let segments: Vec<_> = segments.collect();
        let same = |segment: &&SegmentDigest| {
            commit::digest(&files, plan, segment.segment).is_ok_and(|digest| digest == segment.xxh3)
        };
        segments.len() == plan.segments.len()
            && self.settings.pool.install(|| segments.into_par_iter().all(|segment| same(&segment)))
    }
}

fn open_journal(work: &WorkFolder) -> Result<Journal, Error> {
    let path = work.journal();
    Journal::open(&path).map_err(|source| Error::Journal { path: path.display().to_string(), source })
}

pub(super) fn journal_error(journal: &Journal) -> impl FnOnce(std::io::Error) -> Error {
    let path = journal.path().display().to_string();
    move |source| Error::Journal { path, source }
}

/// For every unit the newest record: a unit is made again if its bytes were found damaged.
pub(super) fn last_records(journal: &Contents) -> BTreeMap<Option<u32>, &UnitRecord> {
    journal.units.iter().map(|record| (record.unit, record)).collect()
}

/// Units that are on the disk as the journal says, and what a plugin saved in them.
type Done = BTreeMap<u32, Vec<SavedBlob>>;

struct Run<'a> {
    prepared: &'a Prepared,
    plan: &'a Plan,
    work: &'a WorkFolder,
    turn: &'a Turn,
    /// Whether it goes through the model once more; see [`Place::pass`].
    pass: u32,
    files: Arc<ReservedFiles>,
    shared: Arc<Shared>,
    events: &'a Arc<dyn Events>,
}

impl<'a> Run<'a> {
    fn new(
        prepared: &'a Prepared,
        (work, at_work): (&'a WorkFolder, &Arc<AtWork>),
        turn: &'a Turn,
        pass: u32,
        events: &'a Arc<dyn Events>,
    ) -> Result<Self, Error> {
        let plan = &prepared.plan.plan;
        let files = Arc::new(ReservedFiles::open(&work.files(), &plan.files)?);
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            sources: Arc::new(prepared.input.sources(&prepared.model)),
            offered: prepared.offered(),
            files: Some(Arc::clone(&files)),
            blob_folder: work.blobs(),
            events: Arc::clone(events),
            at_work: Arc::clone(at_work),
        });
        Ok(Self { prepared, plan, work, turn, pass, files, shared, events })
    }

    /// Holds the records of earlier runs against what is on the disk.
    fn sound_units(&self, journal: &Contents) -> Result<Done, Error> {
        let records = last_records(journal);
        let mut done = Done::new();
        for unit in self.plan.units.iter().map(|planned| planned.unit) {
            if let Some(record) = records.get(&Some(unit)) {
                let expected = commit::segments_of(self.plan, Some(unit));
                let recorded = record.segments.iter().map(|segment| segment.segment);
                if recorded.eq(expected) && self.first_damaged(&[record])?.is_none() {
                    done.insert(unit, record.saved.clone());
                    continue;
                }
                let name = self.name_of(unit);
                self.events.emit(Event::Warning(&format!("{name} is made again: its bytes on the disk are damaged")));
            }
            if self.plan.order == UnitOrder::Sequential {
                // Whatever comes after it was made from it.
                break;
            }
        }
        Ok(done)
    }

    /// Holds what records tell against the disk; gives the first of them that tells something else.
    fn first_damaged<'r>(&self, records: &[&'r UnitRecord]) -> Result<Option<&'r UnitRecord>, Error> {
        let of = |record: &'r UnitRecord| record.segments.iter().map(move |segment| (record, segment));
        let mut segments: Vec<_> = records.iter().copied().flat_map(of).collect();
        // The largest first, so that at the end no thread is alone with one.
        segments.sort_by_key(|(_, segment)| Reverse(self.plan.segments[segment.segment as usize].bytes));
        let compare = |(record, segment): (&'r UnitRecord, &SegmentDigest)| {
            if self.prepared.settings.cancel.is_cancelled() {
                return Err(self.interrupted());
            }
            let same = commit::digest(&self.files, self.plan, segment.segment)? == segment.xxh3;
            Ok((!same).then_some(record))
        };
        let compared: Result<Vec<_>, Error> =
            self.prepared.settings.pool.install(|| segments.into_par_iter().with_max_len(1).map(compare).collect());
        let unsound = |blob: &SavedBlob| unit::sound_blob(&self.work.blobs(), blob).is_none();
        let lost = records.iter().copied().filter(|record| record.saved.iter().any(unsound));
        Ok(compared?.into_iter().flatten().chain(lost).min_by_key(|record| record.unit))
    }

    fn announce(&self, done: &Done) -> Option<Resumed> {
        let planned = &self.prepared.plan.unit_weights;
        let weights = |of_done: bool| {
            let units = planned.iter().filter(|(unit, _)| !of_done || done.contains_key(unit));
            units.map(|(_, weights)| weights).sum()
        };
        self.events.emit(Event::Started { weights: weights(false), units: planned.len() });
        if done.is_empty() {
            return None;
        }
        let next = planned.iter().find(|(unit, _)| !done.contains_key(unit));
        let from = next.map(|(unit, _)| self.name_of(*unit));
        let (done, of) = (done.len(), planned.len());
        self.events.emit(Event::Resuming { done, of, weights: weights(true), next: from.as_deref() });
        Some(Resumed { done, of, from })
    }

    /// They are small, so they are made anew in every run.
    fn make_constants(&self, journal: &mut Journal) -> Result<(), Error> {
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
        let remains = Remains::default();
        self.committer(journal).commit(Commit { unit: None, name: "header".into(), remains, committed: None })
    }

    /// The calibration, taken up where the finished units end; none if the plan needs none.
    ///
    /// If the states there are lost, all layers are made again.
    fn calibration(&self, done: &mut Done) -> Result<Option<Arc<Running>>, Error> {
        let Some(samples) = &self.prepared.samples else { return Ok(None) };
        let units = self.plan.units.iter().map(|unit| unit.unit);
        let Some(first) = units.clone().find(|unit| !done.contains_key(unit)) else { return Ok(None) };
        let model = &self.prepared.model;
        let place = |unit| model.units.iter().position(|info| info.id == unit);
        let weights = Arc::<Sources>::clone(&self.shared.sources);
        let running = Running::new(
            model,
            weights,
            self.plan,
            &samples.rows,
            self.prepared.room(),
            &self.work.states(),
            self.events,
        );
        let running = running.map_err(|error| self.failed_running(error))?;
        if !running.is_needed_from(first) {
            return Ok(None);
        }
        // Later ones, which were found sound behind a damaged one, would not be run through.
        done.retain(|unit, _| place(*unit) < place(first));
        if !running.restore(first).map_err(|error| self.failed_running(error))? {
            let name = self.name_of(first);
            let warning = format!("the hidden states before {name} are lost: the layers before it are made again");
            self.events.emit(Event::Warning(&warning));
            done.retain(|unit, _| running.layer_of(*unit).is_none());
            running.embed().map_err(|error| self.failed_running(error))?;
        }
        Ok(Some(Arc::new(running)))
    }

    fn failed_running(&self, error: calibrate::Error) -> Error {
        if matches!(error, calibrate::Error::Interrupted) { self.interrupted() } else { error.into() }
    }

    fn make_units(&self, journal: &mut Journal, done: &Done) -> Result<(), Error> {
        let mut done = done.clone();
        let calibration = self.calibration(&mut done)?;
        let done = &done;
        let committer = self.committer(journal);
        // Room for one: making units may run ahead of the disk by two, not by many.
        let (commits, inbox) = mpsc::sync_channel(1);
        let (wishes, wish_list) = mpsc::channel::<u32>();
        thread::scope(|scope| {
            let start = |reason: std::io::Error| Error::Threads { threads: 2, reason: reason.to_string() };
            let thread = |name: &str| thread::Builder::new().name(name.to_owned());
            let committer = thread("committer").spawn_scoped(scope, move || committer.commit_all(&inbox));
            let committer = committer.map_err(start)?;
            let reader = thread("prefetch").spawn_scoped(scope, move || self.prefetch_all(&wish_list));
            drop(reader.map_err(start)?);
            let made = self.make_each(done, calibration.as_ref(), &wishes, &commits);
            drop((wishes, commits));
            let committed = committer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // If the disk failed, what the maker saw is only its consequence.
            committed.and(made)
        })
    }

    fn make_each(
        &self,
        done: &Done,
        calibration: Option<&Arc<Running>>,
        wishes: &mpsc::Sender<u32>,
        commits: &mpsc::SyncSender<Commit>,
    ) -> Result<(), Error> {
        let mut todo = self.plan.units.iter().map(|planned| planned.unit).filter(|unit| !done.contains_key(unit));
        // Nobody minds a wish that is not heard: the unit is then read when it is touched.
        let _ = todo.next().map(|first| wishes.send(first));
        let mut saved: BTreeMap<String, SavedBlob> = BTreeMap::new();
        let by_key = |blobs: &[SavedBlob]| blobs.iter().map(|b| (b.key.clone(), b.clone())).collect::<Vec<_>>();
        for unit in self.plan.units.iter().map(|planned| planned.unit) {
            if let Some(blobs) = done.get(&unit) {
                saved.extend(by_key(blobs));
                continue;
            }
            let place = self.prepared.place_of(unit, self.pass);
            let stopped = self.turn.wait_at(place).is_err();
            if stopped || self.prepared.settings.cancel.is_cancelled() {
                return Err(self.interrupted());
            }
            let _ = todo.next().map(|next| wishes.send(next));
            let name = self.name_of(unit);
            self.events.emit(Event::UnitStarted { name: &name });
            let remains = self.make(unit, saved.clone(), calibration)?;
            saved.extend(by_key(&remains.saved));
            // The states before a unit are kept until it is in the journal.
            let (tell, told) = mpsc::channel();
            let committed = calibration.map(|_| tell);
            let sent = commits.send(Commit { unit: Some(unit), name, remains, committed }).is_ok();
            let durable = calibration.is_none() || told.recv().is_ok();
            if !(sent && durable) {
                // The committer has ended, and says why when it is joined.
                return Err(self.interrupted());
            }
            if let Some(calibration) = calibration {
                calibration.forget_before(unit);
            }
        }
        Ok(())
    }

    fn make(
        &self,
        unit: u32,
        loadable: BTreeMap<String, SavedBlob>,
        calibration: Option<&Arc<Running>>,
    ) -> Result<Remains, Error> {
        if let Some(calibration) = calibration {
            calibration.enter(unit);
        }
        let services = Arc::new(UnitWork::new(Arc::clone(&self.shared), unit, loadable, calibration.cloned()));
        let offered: Arc<dyn UnitServices> = Arc::<UnitWork>::clone(&services) as _;
        let (name, at_work) = (self.name_of(unit), &self.shared.at_work);
        at_work.unit(&name);
        let outcome = self.prepared.job.run_unit((unit, &name), &offered, at_work.file());
        let remains = services.close();
        outcome.map_err(|error| self.failed(error))?;
        let plugin = || self.prepared.plugin.manifest.id.clone();
        let remains = remains.map_err(|tensor| Error::Incomplete { plugin: plugin(), tensor })?;
        if let Some(calibration) = calibration {
            calibration.leave(unit).map_err(|error| self.failed_running(error))?;
        }
        Ok(remains)
    }

    /// A plugin's failure, which the user's interruption may have caused.
    fn failed(&self, error: plugin::Error) -> Error {
        if error.is_cancelled() && self.prepared.settings.cancel.is_cancelled() {
            self.interrupted()
        } else {
            error.into()
        }
    }

    /// Asks for the sources of the units on the list, as they come.
    fn prefetch_all(&self, units: &mpsc::Receiver<u32>) {
        for unit in units {
            for segment in &self.plan.segments {
                match &segment.content {
                    SegmentContent::Tensor(tensor) if tensor.unit == unit => {
                        tensor.sources.iter().for_each(|&source| self.shared.sources.prefetch(source));
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
                CompanionContent::Text(text) => self.work.put(&path, text.as_bytes())?,
                CompanionContent::Copy(name) => {
                    let companions = self.prepared.input.companions();
                    let Some(source) = companions.iter().find(|file| file.name == *name) else { continue };
                    let bytes = source.read().map_err(|source| Error::SourceUnreadable { source })?;
                    self.work.put(&path, &bytes)?;
                }
                // No other kind of content is read from a plan.
                _ => {}
            }
        }
        Ok(())
    }

    /// Re-reads everything: that the bytes are those that were made, that they are a sound output, and that
    /// they were made from one and the same source.
    fn check(&self, journal: &Contents) -> Result<Findings, Error> {
        let records: Vec<_> = last_records(journal).into_values().collect();
        if let Some(record) = self.first_damaged(&records)? {
            let name = record.unit.map_or_else(|| "header".to_owned(), |unit| self.name_of(unit));
            return Err(Error::CheckFailed {
                detail: format!("{name} reads back differently from how it was written"),
            });
        }
        let files = OutputFiles {
            reserved: Arc::clone(&self.files),
            folder: self.work.files(),
            companions: self.plan.companions.iter().map(|companion| companion.name.clone()).collect(),
        };
        let mut findings = self.prepared.job.check(Arc::new(files)).map_err(|error| self.failed(error))?;
        let detail = format!("{} segments read back as they were written", self.plan.segments.len());
        findings.checks.insert(0, Check::passed("bytes", detail));
        if let Some(failed) = findings.checks.iter().find(|check| check.status == CheckStatus::Failed) {
            return Err(Error::CheckFailed { detail: format!("{}: {}", failed.name, failed.detail) });
        }
        let Prepared { input, option_files, depends_on, start, .. } = self.prepared;
        let now = input.fingerprint(depends_on);
        match now.and_then(|now| Ok(now == start.source && input.is_unchanged()? && option_files.is_unchanged()?)) {
            Ok(true) => Ok(findings),
            Ok(false) => Err(Error::SourceChanged),
            Err(source) => Err(Error::SourceUnreadable { source }),
        }
    }

    fn committer<'b>(&'b self, journal: &'b mut Journal) -> Committer<'b> {
        let cancel = &self.prepared.settings.cancel;
        Committer { plan: self.plan, files: &self.files, journal, events: self.events, cancel }
    }

    fn interrupted(&self) -> Error {
        self.prepared.interrupted()
    }

    fn name_of(&self, unit: u32) -> String {
        unit_name(&self.prepared.model, unit)
    }
}

/// The name of a unit, for people.
pub(super) fn unit_name(model: &Model, unit: u32) -> String {
    let info = model.units.iter().find(|info| info.id == unit);
    match info.map(|info| (info.kind, info.layer)) {
        Some((UnitKind::Prologue, _)) => "embedding".into(),
        Some((UnitKind::Epilogue, _)) => "head".into(),
        Some((UnitKind::Layer, Some(layer))) => format!("layer {} of {}", layer + 1, model.hyperparameters.layers),
        _ => format!("unit {unit}"),
    }
}
