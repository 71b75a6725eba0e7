//! The conformance suite: whether a plugin keeps to the contract, of which it knows nothing but the border.
//!
//! It goes through the jobs of every format of a connected plugin with models, hosts and files of all sorts, and says of
//! each check whether it passed, and what to do if it did not. A plugin's own tests run it over a Rust type:
//!
//! ```ignore
//! #[test]
//! fn it_conforms() {
//!     conformance::assert::<MyFormat>(crate::MANIFEST_JSON, &Settings::default());
//! }
//! ```
//!
//! [`run`] takes any plugin, also one that came out of a library. A library is connected once in a process, so that all
//! checks go through one connection; the host that it is connected to changes in between. The suite itself does not panic,
//! and goes on after a check that failed. What it does not show: whether others read the files, whether the weights are good,
//! and that a plan does not depend on `HostFacts::threads`, which are the same for all of a connection.

mod description;
mod faults;
mod jobs;
mod models;
mod reading;
mod subject;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;

use self::subject::{Subject, Target};
use super::{Failure, FailureKind, Result, TestHost, TestPlugin};
use crate::{
    abi::PluginObject,
    documents::{Document, FormatDescription, Manifest, Options},
    sdk::{Format, FormatService, bridge, panics::contain},
};

/// With what a plugin is tried.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every job is opened with, beside the level: for a format that does nothing without an option of its own.
    pub options: Options,
    /// Decoder layers, hidden size, inner size of the feed-forward block and vocabulary of the model that a format has to
    /// be able to take. The hidden size is a multiple of 32.
    pub size: (u32, u64, u64, u64),
    /// Small files of the model by name, in place of those that the suite makes (a config and a byte-level tokenizer).
    pub companions: BTreeMap<String, Vec<u8>>,
    /// How many damaged copies of its files each reader is given.
    pub mutations: u64,
    /// The service `compute/1`, with which formats are tried that need statistics of activations. Those are drawn.
    pub compute: Option<ComputeService>,
}

/// A `compute/1` of whoever tries a plugin.
#[derive(Clone)]
pub struct ComputeService(pub Arc<dyn FormatService>);

impl fmt::Debug for ComputeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ComputeService")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            options: Options::default(),
            size: (2, 64, 128, 320),
            companions: BTreeMap::new(),
            mutations: 96,
            compute: None,
        }
    }
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As the contract says.
    Passed,
    /// Against the contract.
    Failed,
    /// It has no meaning for this plugin, or cannot be tried here.
    Skipped,
}

/// A check, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The check's name, which stays the same.
    pub check: &'static str,
    /// The format that was tried; none for what is about the whole plugin.
    pub format: Option<String>,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen; of a failure also what to do, and of a check that was skipped the reason.
    pub words: String,
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether none failed.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.verdict != Verdict::Failed)
    }

    /// How many checks went so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
    }
}

impl fmt::Display for Report {
    /// A line for each check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Outcome { check, format, verdict, words } in &self.outcomes {
            let verdict = match verdict {
                Verdict::Passed => "passed ",
                Verdict::Failed => "FAILED ",
                Verdict::Skipped => "skipped",
            };
            let format = format.as_ref().map_or_else(String::new, |format| format!(" of {format}"));
            writeln!(f, "{verdict} {check}{format}: {words}")?;
        }
        Ok(())
    }
}

/// Why a check did not pass.
pub(super) enum Problem {
    Failed(String),
    Skipped(String),
}

/// What a check gives: what it saw, or why it did not pass.
type Outcomes = std::result::Result<String, Problem>;

/// A check that failed, with these words.
fn failed<T>(words: impl Into<String>) -> std::result::Result<T, Problem> {
    Err(Problem::Failed(words.into()))
}

/// A check that cannot be made, for this reason.
fn skipped<T>(words: impl Into<String>) -> std::result::Result<T, Problem> {
    Err(Problem::Skipped(words.into()))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(told(&failure))
    }
}

/// A failure with its kind, for whoever looks for its cause.
fn told(failure: &Failure) -> String {
    let kind = match failure.kind {
        FailureKind::INTERNAL => "INTERNAL",
        FailureKind::USAGE => "USAGE",
        FailureKind::NOT_FOUND => "NOT_FOUND",
        FailureKind::UNSUPPORTED => "UNSUPPORTED",
        FailureKind::CORRUPT => "CORRUPT",
        FailureKind::RESOURCES => "RESOURCES",
        FailureKind::PLUGIN => "PLUGIN: a panic, or a breach of the contract",
        FailureKind::CANCELLED => "CANCELLED",
        FailureKind(other) => return format!("“{failure}” (kind {other})"),
    };
    format!("“{failure}” (kind {kind})")
}

/// Whether a failure is a refusal: in words, and of a kind that says that the request or the input cannot be helped.
fn is_refusal(failure: &Failure) -> std::result::Result<(), String> {
    use FailureKind as Kind;
    let kinds = [Kind::USAGE, Kind::NOT_FOUND, Kind::UNSUPPORTED, Kind::CORRUPT, Kind::RESOURCES];
    if !kinds.contains(&failure.kind) {
        return Err(format!(
            "{}; refuse what cannot be done with kind UNSUPPORTED, USAGE or CORRUPT, and never with a panic",
            told(failure)
        ));
    }
    if failure.message.trim().is_empty() {
        return Err(format!("a refusal of kind {} without a message", failure.kind.0));
    }
    Ok(())
}

/// The check without which most others say nothing.
const WHOLE_JOB: &str = "whole job";

/// A check of one format.
type FormatCheck = fn(&Subject<'_>, &Target<'_>) -> Outcomes;

/// The checks of a format, in the order in which they are made.
const FORMAT_CHECKS: [(&str, FormatCheck); 16] = [
    ("levels", jobs::levels),
    (WHOLE_JOB, jobs::whole),
    ("same plan again", jobs::same_plan),
    ("same bytes on any threads", jobs::threads),
    ("odd shapes", jobs::odd_shapes),
    ("large shapes", jobs::large_shapes),
    ("unknown options", description::unknown_options),
    ("unknown roles and units", jobs::unknown_roles),
    ("weights that are no numbers", faults::not_finite),
    ("cancellation", faults::cancellation),
    ("refusals of the host", faults::refusals),
    ("granted memory", jobs::memory),
    ("check of its own files", jobs::own_check),
    ("reading", reading::reads),
    ("damaged files", reading::damaged),
    ("weights read back", reading::decodes),
];

/// Connects a plugin, once, and makes all checks.
///
/// `connect` passes the host's object and facts to what a library exports beside its manifest.
pub fn run(
    manifest: &Manifest,
    settings: &Settings,
    connect: impl FnOnce(&TestHost) -> Result<PluginObject>,
) -> Report {
    let host = models::host(settings);
    let mut report = Report { outcomes: Vec::new() };
    let connected = contain(|| connect(&host));
    let object = match connected {
        Ok(object) => object,
        Err(failure) => {
            let words = format!("it does not start: {}", told(&failure));
            report.outcomes.push(Outcome { check: "start", format: None, verdict: Verdict::Failed, words });
            return report;
        }
    };
    let plugin = TestPlugin::of(object, host.clone());
    report.outcomes.push(outcome("start", None, &host, || Ok("it starts".into())));
    let description = match contain(|| plugin.describe()) {
        Ok(description) => description,
        Err(failure) => {
            report.outcomes.push(outcome("description", None, &host, || Err(failure.into())));
            return report;
        }
    };
    let subject = Subject::new(manifest, settings, plugin, host.clone());
    let of_plugin = || description::agrees(&subject, &description);
    report.outcomes.push(outcome("description", None, &host, of_plugin));
    for format in &description.formats {
        for_format(&subject, format, &mut report);
    }
    report
}

fn for_format(subject: &Subject<'_>, format: &FormatDescription, report: &mut Report) {
    let mut target = match contain(|| Ok(Target::find(subject, format))) {
        Ok(target) => target,
        Err(failure) => {
            let words = || Err(failure.into());
            report.outcomes.push(outcome("levels", Some(format.id.clone()), &subject.host, words));
            return;
        }
    };
    for (name, check) in FORMAT_CHECKS {
        let made = outcome(name, Some(format.id.clone()), &subject.host, || check(subject, &target));
        target.fails |= name == WHOLE_JOB && made.verdict == Verdict::Failed;
        report.outcomes.push(made);
    }
}

/// Makes a check on a host to which nothing has happened yet.
fn outcome(check: &'static str, format: Option<String>, host: &TestHost, made: impl FnOnce() -> Outcomes) -> Outcome {
    host.reset();
    let (verdict, words) = match contain(|| Ok(made())) {
        Ok(Ok(words)) => (Verdict::Passed, words),
        Ok(Err(Problem::Failed(words))) => (Verdict::Failed, words),
        Ok(Err(Problem::Skipped(words))) => (Verdict::Skipped, words),
        Err(failure) => (Verdict::Failed, format!("the check could not be made: {failure}")),
    };
    host.reset();
    Outcome { check, format, verdict, words }
}

/// Runs the suite over a Rust type; `manifest` is the `MANIFEST_JSON` of [`export_plugin!`](crate::export_plugin).
///
/// # Errors
/// Fails when the manifest is none.
pub fn of<F: Format>(manifest: &str, settings: &Settings) -> Result<Report> {
    let manifest = Manifest::from_json(manifest)?;
    Ok(run(&manifest, settings, |host| bridge::plugin_object::<F>(&host.handle())))
}

/// Runs the suite over a Rust type, for the tests of a plugin.
///
/// # Panics
/// Panics with the whole report when a check has failed.
#[expect(clippy::panic, reason = "it is an assertion of tests")]
pub fn assert<F: Format>(manifest: &str, settings: &Settings) {
    match of::<F>(manifest, settings) {
        Ok(report) if report.conforms() => {}
        Ok(report) => panic!("it does not conform:\n{report}"),
        Err(failure) => panic!("the manifest cannot be read: {failure}"),
    }
}
