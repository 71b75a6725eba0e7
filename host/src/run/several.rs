//! Several formats in one pass: their runs are prepared together, go through the source side by side, and put their
//! outputs in place when all are made.
//!
//! Each run is the one that its format would have alone: its plan, key, work folder, journal and bytes know nothing of the
//! others, so that any of them can go on by itself, and one that was begun alone goes on here.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic,
    path::PathBuf,
    sync::Arc,
    thread,
};

use super::{
    Error, Event, Events, Finished, Outcome, Prepared, Request, Resources, calibrated, connect,
    finished::Made,
    input::{Input, Read},
    options,
    prepare::{self, Common, Loaded},
    turns::Turn,
};
use crate::{plan, plugin::Catalog};

/// Prepares a run for each format of a request; no weight is read, and nothing is written but small files of a hub's model
/// into its cache. The runs share the source, the data that activations are taken from, the threads and the ledger.
///
/// # Errors
/// Fails with whatever keeps the request from being fulfilled, of one format or of all together.
pub fn prepare(request: &Request, catalog: &Catalog, resources: &Resources) -> Result<Vec<Prepared>, Error> {
    let settings = connect(resources)?;
    let open = || Input::open(&request.model, request.fetched.as_ref(), request.wanted, catalog, &settings);
    let mut read = Some(open()?);
    let loaded = request.formats.iter().map(|format| Loaded::new(format, catalog, &settings));
    let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
    let formats: Vec<_> = request.formats.iter().zip(loaded.iter().map(|loaded| &loaded.described)).collect();
    let options = options::dealt_out(&request.options, &formats)?;
    let mut common = Common { request, catalog, settings: settings.clone(), samples: None };
    let count = loaded.len();
    let mut runs = Vec::with_capacity(count);
    for (index, (loaded, options)) in loaded.into_iter().zip(options).enumerate() {
        let own = match &read {
            Some(read) if index + 1 < count => read.again(open)?,
            _ => read.take().map_or_else(&open, Ok)?,
        };
        let name = named(&loaded.described.id, options.level.as_deref());
        let run = prepare::prepare(&mut common, loaded, options, own);
        runs.push(run.map_err(|error| if count > 1 { of_one(name, error) } else { error })?);
    }
    if count > 1 {
        accept(request, &mut runs)?;
    }
    Ok(runs)
}

/// Refuses what each run can do and all together cannot, and has each leave room to the others.
fn accept(request: &Request, runs: &mut [Prepared]) -> Result<(), Error> {
    let mut places = BTreeSet::new();
    if let Some(path) = runs.iter().map(Prepared::output).find(|path| !places.insert(path.clone())) {
        return Err(Error::Twice { path });
    }
    if let (Some(first), true) = (runs.first(), runs.iter().all(|run| run.data.dataset.is_none()))
        && request.calibration.dataset.is_some()
    {
        let plan = &first.plan.plan;
        return Err(Error::CalibrationUnused { format: plan.format.clone(), level: plan.level.clone() });
    }
    let totals = Totals::of(runs);
    if let Some(free) = totals.free.filter(|&free| free < totals.needed) {
        return Err(plan::Error::DiskTooSmall { path: request.output.clone(), needed: totals.needed, free }.into());
    }
    let download = runs.first().and_then(|run| run.facts.download.as_ref());
    plan::refuse_download(download, totals.needed)?;
    // One unit is at work at a time, so of what units need the most counts; hidden states go into files where there is no
    // room for all.
    let threads = |run: &Prepared| run.settings.threads();
    let reserve = |run: &Prepared| calibrated::of_a_unit(&run.plan.plan, &run.model, threads(run));
    let reserve = runs.iter().map(reserve).max().unwrap_or(0);
    let own = runs.iter().map(|run| run.own).max().unwrap_or(0);
    let own = own.saturating_add(runs.iter().map(|run| run.calibrating.memory).max().unwrap_or(0));
    let most = |of: &dyn Fn(&plan::Facts) -> u64| runs.iter().map(|run| of(&run.facts)).max().unwrap_or(0);
    let granted = reserve.max(most(&|facts| facts.memory_planning));
    let needed = own.saturating_add(granted).max(most(&|facts| facts.memory_before));
    for run in runs {
        run.settings.ledger.set_own(own);
        run.reserve = reserve;
        if let Some(limit) = run.settings.ledger.limit().filter(|&limit| limit < needed) {
            return Err(plan::Error::MemoryTooSmall { needed, limit }.into());
        }
    }
    Ok(())
}

/// What several runs take together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Bytes of the files of weights.
    pub file_bytes: u64,
    /// Bytes that are yet needed on the disk, with what is there only while they are made.
    pub needed: u64,
    /// Bytes that are free there, if that can be told.
    pub free: Option<u64>,
    /// The most memory that will be resident, if that can be told.
    pub peak_resident: Option<u64>,
    /// Seconds, if all plugins know their costs.
    pub seconds: Option<f64>,
}

impl Totals {
    /// Of these runs.
    #[must_use]
    pub fn of(runs: &[Prepared]) -> Self {
        let sum = |of: &dyn Fn(&Prepared) -> u64| runs.iter().map(of).fold(0, u64::saturating_add);
        // The states of all runs are kept side by side, and all else is needed by one at a time.
        let states = sum(&|run| run.calibrating.states);
        let peak = |run: &Prepared| {
            let peak = run.estimate.memory.peak_resident?;
            Some(peak.saturating_sub(run.calibrating.states).saturating_add(states))
        };
        let seconds = runs.iter().map(|run| run.estimate.time.map(|time| time.seconds));
        Self {
            file_bytes: sum(&|run| run.plan.file_bytes),
            needed: sum(&|run| plan::bytes_needed(&run.plan, &run.facts)),
            free: runs.first().and_then(|run| run.place.free),
            peak_resident: runs.iter().map(peak).max().flatten(),
            seconds: seconds.sum(),
        }
    }
}

/// Carries the plans of prepared runs out, one layer of each after the other, and puts the outputs in place when all are
/// made and checked.
///
/// # Errors
/// Fails with the first thing that goes wrong. The runs stop before their next unit then, and finished units are kept for
/// the next time.
pub fn execute(mut runs: Vec<Prepared>, events: &Arc<dyn Events>) -> Result<Vec<Finished>, Error> {
    if runs.len() == 1 {
        return runs.into_iter().map(|run| run.execute(events)).collect();
    }
    warn(&runs, events);
    let folders: Vec<_> = runs.iter().map(|run| run.target.work_folder()).collect();
    let turns = Turn::of(runs.len());
    let made: Vec<Result<Made, Error>> = thread::scope(|scope| {
        let threads = turns.into_iter().zip(runs.drain(..)).map(|(turn, run)| {
            let name = run.name();
            let events: Arc<dyn Events> = Arc::new(OfOne { name: name.clone(), all: Arc::clone(events) });
            let make = move || run.make(&turn, &events).map_err(|error| of_one(name, error));
            thread::Builder::new().name("run".into()).spawn_scoped(scope, make)
        });
        let threads: Vec<_> = threads.collect();
        let joined = threads.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
            Err(error) => Err(Error::Threads { threads: 1, reason: error.to_string() }),
        });
        joined.collect()
    });
    let mut made = all_or_why(made, &folders)?;
    made.iter().try_for_each(Made::look_at_place)?;
    made.iter_mut().try_for_each(|made| made.publish(events))?;
    made.into_iter().map(Made::finish).collect()
}

/// Removes the work folders. One by one would leave, for long, some outputs that tell no more whose they are.
///
/// # Errors
/// Fails when the disk refuses.
pub fn tidy_up(finished: Vec<Finished>) -> Result<Vec<Outcome>, Error> {
    finished.iter().try_for_each(Finished::empty)?;
    finished.into_iter().map(Finished::tidy_up).collect()
}

/// What all have made; or why not, of whichever has failed first and not because of another.
fn all_or_why(made: Vec<Result<Made, Error>>, folders: &[PathBuf]) -> Result<Vec<Made>, Error> {
    let mut all = Vec::with_capacity(made.len());
    let mut stopped = false;
    let mut why = None;
    for one in made {
        match one {
            Ok(made) => all.push(made),
            Err(Error::OfOne { source, .. }) if matches!(*source, Error::Interrupted { .. }) => stopped = true,
            Err(error) => why = why.or(Some(error)),
        }
    }
    match why {
        Some(error) => Err(error),
        None if stopped => {
            let folders = folders.iter().filter(|folder| folder.exists()).map(|folder| folder.display().to_string());
            Err(Error::Interrupted { checkpoint: folders.collect::<Vec<_>>().join(", ") })
        }
        None => Ok(all),
    }
}

/// Tells what the user should know before the work: once what is so of all runs.
fn warn(runs: &[Prepared], events: &Arc<dyn Events>) {
    let mut by_text: BTreeMap<&str, usize> = BTreeMap::new();
    for warning in runs.iter().flat_map(|run| &run.warnings) {
        *by_text.entry(warning).or_default() += 1;
    }
    let mut told = BTreeSet::new();
    for run in runs {
        for warning in &run.warnings {
            if by_text.get(warning.as_str()) == Some(&1) {
                events.emit(Event::Of { run: &run.name(), event: &Event::Warning(warning) });
            } else if told.insert(warning) {
                events.emit(Event::Warning(warning));
            }
        }
    }
}

/// Tells whose events they are.
struct OfOne {
    name: String,
    all: Arc<dyn Events>,
}

impl Events for OfOne {
    fn emit(&self, event: Event<'_>) {
        self.all.emit(Event::Of { run: &self.name, event: &event });
    }
}

impl Prepared {
    /// What it makes, for people.
    #[must_use]
    pub fn name(&self) -> String {
        named(&self.plan.plan.format, Some(&self.plan.plan.level))
    }
}

impl Read {
    /// The same for another run: a checkpoint is shared, and quantised files are opened anew, for each format has them in
    /// an order of its own.
    fn again(&self, open: impl Fn() -> Result<Self, Error>) -> Result<Self, Error> {
        match &self.input {
            Input::Checkpoint(_) => {
                Ok(Self { input: self.input.clone(), model: self.model.clone(), warnings: self.warnings.clone() })
            }
            Input::Files(..) => open(),
        }
    }
}

fn named(format: &str, level: Option<&str>) -> String {
    level.map_or_else(|| format.to_owned(), |level| format!("{format} {level}"))
}

fn of_one(run: String, error: Error) -> Error {
    Error::OfOne { run, source: Box::new(error) }
}
