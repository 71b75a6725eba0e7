//! Plans that depend on the weights: the units of a provisional one measure, and of what they save the plugin makes
//! the plan that is carried out.
//!
//! What was measured is kept as finished units are: texts in the work folder, told of in the journal. So an
//! interrupted survey goes on, and a finished one is never made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qhost_plugin_api::documents::{OpenRequest, Plan};

use super::{
    Error, Event, Events, Prepared,
    at_work::AtWork,
    calibrated::Running,
    execute::{journal_error, unit_name},
    files::Companions,
    journal::{Contents, Journal, UnitRecord},
    prepare::{data_of, left_out},
    sources::Sources,
    turns::Turn,
    unit::{self, Shared, UnitWork},
};
use crate::{calibrate, plan, plugin::UnitServices, write::WorkFolder};

/// The folder of a survey within those of what plugins save and of hidden states.
const OWN: &str = "survey";

impl Prepared {
    /// Whether the plan is provisional yet.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.plan.plan.survey.is_some()
    }

    /// Takes the plan that is carried out, if an earlier run has measured all that it depends on.
    pub(super) fn settle(&mut self, work: &WorkFolder, journal: &Contents) -> Result<(), Error> {
        let measured = self.measured(work, journal);
        if !self.is_provisional() || measured.len() < self.plan.plan.units.len() {
            return Ok(());
        }
        let texts = texts(work, &measured)?;
        self.choose(texts)
    }

    /// Measures what is not measured yet, and takes the plan that is carried out.
    pub(super) fn survey(
        &mut self,
        (work, at_work): (&WorkFolder, &Arc<AtWork>),
        journal: &mut Journal,
        turn: &Turn,
        events: &Arc<dyn Events>,
    ) -> Result<(), Error> {
        let before = self.plan.plan.warnings.clone();
        let measured = self.measure((work, at_work), journal, turn, events)?;
        let texts = texts(work, &measured)?;
        self.choose(texts)?;
        for warning in self.plan.plan.warnings.iter().filter(|warning| !before.contains(warning)) {
            events.emit(Event::Warning(warning));
        }
        events.emit(Event::Chosen(&self.plan));
        Ok(())
    }

    /// The first units that were measured, as the journal tells and the disk still has it.
    fn measured(&self, work: &WorkFolder, journal: &Contents) -> Vec<UnitRecord> {
        let records: BTreeMap<_, _> = journal.surveyed.iter().map(|record| (record.unit, record)).collect();
        let folder = work.blobs().join(OWN);
        let sound = |record: &&UnitRecord| record.saved.iter().all(|blob| unit::sound_blob(&folder, blob).is_some());
        let units = self.plan.plan.units.iter().map(|planned| records.get(&Some(planned.unit)).copied().filter(sound));
        units.map_while(Option::<&UnitRecord>::cloned).collect()
    }

    /// Takes the plan that the plugin makes of what was measured.
    fn choose(&mut self, texts: BTreeMap<String, String>) -> Result<(), Error> {
        let mut open =
            OpenRequest::new(self.plan.plan.format.clone(), self.options.clone(), self.model.as_ref().clone());
        open.calibrates = self.data.dataset.is_some();
        open.calibration = self.samples.as_deref().map(data_of);
        open.surveyed = Some(texts);
        open.conversion = self.conversion();
        let companions = self.input.companions().into_iter().chain(self.option_files.files());
        let job = self.plugin.open(&open, Arc::new(Companions::new(companions.collect())))?;
        let chosen = plan::accept(job.plan.clone(), &self.model)?;
        let provisional = std::mem::replace(&mut self.plan, chosen).plan;
        self.job = job;
        if let Some(negotiated) = &self.negotiated {
            self.loss = Some(negotiated.loss(&self.plan.plan)?);
        }
        self.accept_choice(&provisional)?;
        for warnings in [&mut self.warnings, &mut self.lasting_warnings] {
            let outdated: BTreeSet<_> =
                provisional.warnings.iter().cloned().chain(left_out(&provisional, &self.model)).collect();
            warnings.retain(|warning| !outdated.contains(warning));
            warnings.extend(self.plan.plan.warnings.iter().cloned());
            warnings.extend(left_out(&self.plan.plan, &self.model));
        }
        Ok(())
    }

    /// Holds the plan against the one before it, and against the machine.
    fn accept_choice(&self, provisional: &Plan) -> Result<(), Error> {
        let chosen = &self.plan.plan;
        let limit = provisional.survey.as_ref().and_then(|survey| survey.limit);
        if chosen.survey.is_some() {
            return Err(inconsistent("it is provisional again".into()));
        }
        if (&chosen.output, &chosen.level) != (&provisional.output, &provisional.level) {
            return Err(inconsistent("the output has another name than before it was measured".into()));
        }
        if let Some(limit) = limit.filter(|limit| *limit < self.plan.file_bytes) {
            return Err(inconsistent(format!(
                "its files have {} bytes, and {limit} are the most",
                self.plan.file_bytes
            )));
        }
        plan::refuse_impossible(&self.plan, self.settings.threads(), &self.facts).map_err(Error::from)
    }

    fn measure(
        &self,
        (work, at_work): (&WorkFolder, &Arc<AtWork>),
        journal: &mut Journal,
        turn: &Turn,
        events: &Arc<dyn Events>,
    ) -> Result<Vec<UnitRecord>, Error> {
        let mut measured = self.measured(work, &journal.contents);
        let units: Vec<_> = self.plan.plan.units.iter().map(|planned| planned.unit).collect();
        let Some(first) = units.get(measured.len()).copied() else { return Ok(measured) };
        let sources = Arc::new(self.input.sources(&self.model));
        let calibration = self.calibration_from(first, work, &sources, events)?;
        let calibration = calibration.map(|(running, from_the_start)| {
            if from_the_start {
                measured.clear();
            }
            Arc::new(running)
        });
        let all = &self.plan.unit_weights;
        let weights = |units: &[(u32, u64)]| units.iter().map(|(_, weights)| weights).sum();
        events.emit(Event::Surveying {
            weights: weights(all),
            units: all.len(),
            done: measured.len(),
            weights_done: weights(&all[..measured.len()]),
        });
        let shared = Arc::new(Shared {
            plan: self.plan.plan.clone(),
            sources,
            offered: self.offered(),
            files: None,
            blob_folder: work.blobs().join(OWN),
            events: Arc::clone(events),
            at_work: Arc::clone(at_work),
        });
        for &unit in &units[measured.len()..] {
            let stopped = turn.wait_at(self.place_of(unit, 0)).is_err();
            if stopped || self.settings.cancel.is_cancelled() {
                return Err(interrupted(work));
            }
            events.emit(Event::UnitStarted { name: &format!("measuring {}", unit_name(&self.model, unit)) });
            let record = self.measure_unit(unit, &shared, calibration.as_ref(), work)?;
            journal.finish_survey_of(record.clone()).map_err(journal_error(journal))?;
            measured.push(record);
            if let Some(calibration) = &calibration {
                calibration.forget_before(unit);
            }
        }
        Ok(measured)
    }

    fn measure_unit(
        &self,
        unit: u32,
        shared: &Arc<Shared>,
        calibration: Option<&Arc<Running>>,
        work: &WorkFolder,
    ) -> Result<UnitRecord, Error> {
        let running = |error| match error {
            calibrate::Error::Interrupted => interrupted(work),
            error => error.into(),
        };
        if let Some(calibration) = calibration {
            calibration.enter(unit);
        }
        let services = Arc::new(UnitWork::new(Arc::clone(shared), unit, BTreeMap::new(), calibration.cloned()));
        let offered: Arc<dyn UnitServices> = Arc::<UnitWork>::clone(&services) as _;
        let name = unit_name(&self.model, unit);
        shared.at_work.unit(&name);
        let outcome = self.job.run_unit((unit, &name), &offered, shared.at_work.file());
        let remains = services.close();
        outcome.map_err(|error| {
            let cancelled = error.is_cancelled() && self.settings.cancel.is_cancelled();
            if cancelled { interrupted(work) } else { error.into() }
        })?;
        let remains = remains.map_err(inconsistent)?;
        if let Some(calibration) = calibration {
            calibration.leave(unit).map_err(running)?;
        }
        Ok(UnitRecord { unit: Some(unit), segments: Vec::new(), metrics: Vec::new(), saved: remains.saved })
    }

    /// The calibration before a unit, and whether all units have to be measured again because the states there are
    /// lost.
    fn calibration_from(
        &self,
        first: u32,
        work: &WorkFolder,
        sources: &Arc<Sources>,
        events: &Arc<dyn Events>,
    ) -> Result<Option<(Running, bool)>, Error> {
        let Some(samples) = &self.samples else { return Ok(None) };
        let failed = |error| match error {
            calibrate::Error::Interrupted => interrupted(work),
            error => Error::from(error),
        };
        let (weights, folder) = (Arc::<Sources>::clone(sources), work.states().join(OWN));
        let (model, plan) = (&self.model, &self.plan.plan);
        let running = Running::new(model, weights, plan, &samples.rows, self.room(), &folder, events);
        let running = running.map_err(failed)?;
        if !running.is_needed_from(first) {
            return Ok(None);
        }
        let found = running.restore(first).map_err(failed)?;
        if !found {
            let name = unit_name(&self.model, first);
            events.emit(Event::Warning(&format!("the hidden states before {name} are lost: it is measured anew")));
            running.embed().map_err(failed)?;
        }
        Ok(Some((running, !found)))
    }
}

/// What the units saved, by its keys.
fn texts(work: &WorkFolder, measured: &[UnitRecord]) -> Result<BTreeMap<String, String>, Error> {
    let folder = work.blobs().join(OWN);
    let blobs = measured.iter().flat_map(|record| &record.saved);
    let texts = blobs.map(|blob| {
        let bytes = unit::sound_blob(&folder, blob)
            .ok_or_else(|| Error::CheckFailed { detail: format!("what was saved as {} is damaged", blob.key) })?;
        let text = String::from_utf8(bytes).map_err(|_| inconsistent(format!("{} is no text", blob.key)))?;
        Ok((blob.key.clone(), text))
    });
    texts.collect()
}

fn interrupted(work: &WorkFolder) -> Error {
    Error::Interrupted { checkpoint: work.path().display().to_string() }
}

fn inconsistent(reason: String) -> Error {
    plan::Error::Inconsistent { reason }.into()
}
