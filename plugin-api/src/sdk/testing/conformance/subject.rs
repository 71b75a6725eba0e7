//! What is tried: the plugin with its host, and a format with the level that works.

use super::{Outcomes, Problem, Settings, TestHost, TestPlugin, models, skipped};
use crate::{
    documents::{FormatDescription, Manifest, ManifestFormat, Options, Plan},
    sdk::{
        Result,
        testing::{Made, TestModel},
    },
};

/// A connected plugin.
pub(super) struct Subject<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) settings: &'a Settings,
    pub(super) plugin: TestPlugin,
    pub(super) host: TestHost,
    /// The model that a format has to be able to take.
    pub(super) model: TestModel,
}

impl<'a> Subject<'a> {
    pub(super) fn new(manifest: &'a Manifest, settings: &'a Settings, plugin: TestPlugin, host: TestHost) -> Self {
        Self { manifest, settings, plugin, host, model: models::ordinary(settings) }
    }
}

/// A format of the plugin.
pub(super) struct Target<'a> {
    pub(super) format: &'a FormatDescription,
    /// What the manifest says of it.
    pub(super) declared: Option<&'a ManifestFormat>,
    /// How each level was planned.
    pub(super) planned: Vec<(String, Result<Plan>)>,
    /// Whether its jobs fail, so that there is no point in looking for what else is wrong with them.
    pub(super) fails: bool,
    settings: &'a Settings,
}

impl<'a> Target<'a> {
    /// Plans every level.
    pub(super) fn find(subject: &'a Subject<'_>, format: &'a FormatDescription) -> Self {
        let plan = |level: &str| {
            let options = Options { level: Some(level.into()), ..subject.settings.options.clone() };
            subject.plugin.plan(&subject.model, &format.id, options)
        };
        Self {
            format,
            declared: subject.manifest.formats.iter().find(|declared| declared.id == format.id),
            planned: format.levels.iter().map(|level| (level.id.clone(), plan(&level.id))).collect(),
            fails: false,
            settings: subject.settings,
        }
    }

    /// What a job of a level is opened with.
    pub(super) fn options(&self, level: &str) -> Options {
        Options { level: Some(level.into()), ..self.settings.options.clone() }
    }

    /// The level that is taken where one has to do: the default if it can be made here, or the first that can.
    pub(super) fn level(&self) -> std::result::Result<&str, Problem> {
        if self.fails {
            return skipped("its jobs fail; see `whole job`");
        }
        if self.format.takes_no_floats {
            return skipped("it takes no floats: only conversions from certain formats make it");
        }
        let default = self.planned.iter().find(|(level, _)| Some(level) == self.format.default_level.as_ref());
        let found = default.into_iter().chain(&self.planned).find_map(|(level, plan)| {
            let runs = plan.as_ref().is_ok_and(|plan| self.can_run(plan));
            runs.then_some(level.as_str())
        });
        match found {
            Some(level) => Ok(level),
            None if self.planned.iter().any(|(_, plan)| plan.is_ok()) => skipped(
                "every level needs statistics of activations, and this host has no arithmetic; try `qhost plugins check \
                 --full`",
            ),
            None => skipped("no level can be planned; see `levels`"),
        }
    }

    /// The levels that can be made here.
    pub(super) fn levels(&self) -> impl Iterator<Item = &str> {
        let runs = |plan: &Result<Plan>| plan.as_ref().is_ok_and(|plan| self.can_run(plan));
        self.planned.iter().filter(move |(_, plan)| runs(plan)).map(|(level, _)| level.as_str())
    }

    /// The host in memory makes no plan twice, and has activations for formats that bring all else.
    fn can_run(&self, plan: &Plan) -> bool {
        let asks_nothing = || plan.units.iter().all(|unit| unit.statistics.is_empty());
        plan.survey.is_none() && (self.settings.compute.is_some() || asks_nothing())
    }

    /// Makes files of the ordinary model at the level that works.
    pub(super) fn make(&self, subject: &Subject<'_>) -> std::result::Result<Made, Problem> {
        let level = self.level()?;
        Ok(subject.plugin.make(&subject.model, &self.format.id, self.options(level))?)
    }
}

/// The words of a check that passed if there is nothing to say against it.
pub(super) fn verdict(faults: &[String], words: impl Into<String>) -> Outcomes {
    // One cause often has many.
    const SHOWN: usize = 3;
    let more = faults.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    match faults.get(..SHOWN.min(faults.len())) {
        None | Some([]) => Ok(words.into()),
        Some(shown) => Err(Problem::Failed(shown.join("; ") + &more)),
    }
}
