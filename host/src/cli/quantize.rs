//! `qhost quantize` and `qhost plan`.

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, thread};

use qhost_plugin_api::documents::Options;
use serde_json::Value;

use super::{
    CommandResult, Session,
    arguments::{MakeArguments, QuantizeArguments},
};
use crate::{
    cancel::CancelFlag,
    exit_code::ExitCode,
    report::{self, Files, Problem, Progress, ProgressStyle, Usage, Verbosity},
    run::{self, Fetched, ModelSource, Outcome, Prepared, Request, Resources, Wanted},
};

/// The report's name beside the output.
const REPORT: &str = "qhost-report.json";

pub(super) fn plan(session: &Session, arguments: QuantizeArguments) -> CommandResult {
    let QuantizeArguments { model, make } = arguments;
    let (source, cancel) = (Source { model: model.source(), fetched: None }, CancelFlag::default());
    stop_on_signal(cancel.clone());
    let prepared = prepare(session, source, Wanted::Any, make, cancel)?;
    show_plan(session, &prepared)
}

pub(super) fn quantize(session: &Session, arguments: QuantizeArguments) -> CommandResult {
    let QuantizeArguments { model, make } = arguments;
    let (dry_run, no_report) = (make.dry_run, make.no_report);
    let (source, cancel) = (Source { model: model.source(), fetched: None }, CancelFlag::default());
    stop_on_signal(cancel.clone());
    let prepared = prepare(session, source, Wanted::Checkpoint, make, cancel)?;
    if dry_run {
        return show_plan(session, &prepared);
    }
    let made = make_output(session, prepared, no_report)?;
    if !session.json && session.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    session.print(|| made.document(), || made.text())
}

/// A finished output, and what belongs to it.
pub(super) struct Made {
    pub(super) outcome: Outcome,
    usage: Usage,
    report: Option<PathBuf>,
    card: Option<PathBuf>,
    beside: Vec<PathBuf>,
}

impl Made {
    /// The result for programs.
    pub(super) fn document(&self) -> Value {
        let files = Files { report: self.report.as_deref(), card: self.card.as_deref(), beside: &self.beside };
        report::result_document(&self.outcome, self.usage, files)
    }

    /// The result for people.
    pub(super) fn text(&self) -> String {
        report::show_result(&self.outcome, self.usage, &self.beside)
    }
}

/// Carries a plan out, and writes what belongs to the output.
pub(super) fn make_output(session: &Session, prepared: Prepared, no_report: bool) -> Result<Made, Problem> {
    let progress = Progress::start(style(session));
    let finished = prepared.execute(&progress.events())?;
    let usage = progress.finish();
    let beside = finished.put_beside()?;
    let card = finished.put_card()?;
    let report = if no_report {
        None
    } else {
        let document = report::report_document(&finished.outcome, usage);
        Some(finished.put(REPORT, format!("{document:#}\n").as_bytes())?)
    };
    let outcome = finished.tidy_up()?;
    Ok(Made { outcome, usage, report, card, beside })
}

/// How progress is shown.
pub(super) fn style(session: &Session) -> ProgressStyle {
    match (session.json, session.verbosity) {
        (_, Verbosity::Quiet) => ProgressStyle::Silent,
        (true, _) => ProgressStyle::Json,
        (false, _) => ProgressStyle::Human,
    }
}

/// The model that a command names, and its files where they were fetched already.
pub(super) struct Source {
    pub(super) model: ModelSource,
    pub(super) fetched: Option<Fetched>,
}

/// Prepares a run of a model.
pub(super) fn prepare(
    session: &Session,
    source: Source,
    wanted: Wanted,
    arguments: MakeArguments,
    cancel: CancelFlag,
) -> Result<Prepared, Problem> {
    let [format] = <[String; 1]>::try_from(arguments.format).map_err(|formats| {
        let message = format!("{} formats in one run cannot be made yet", formats.len());
        Problem::new(ExitCode::Usage, message, "run the command once for each format")
    })?;
    let flag = |yes: bool, no: bool| if yes { Some(true) } else { no.then_some(false) };
    let options = Options {
        level: arguments.level,
        bits: arguments.bits,
        group_size: arguments.group_size,
        symmetric: flag(arguments.sym, arguments.asym),
        act_order: flag(arguments.desc_act, arguments.no_desc_act),
        imatrix: arguments.imatrix,
        effort: arguments.effort,
        max_size: arguments.max_size.map(|size| size.as_u64()),
        tensor_types: arguments.tensor_types,
        plugin: by_key(arguments.plugin_options),
        ..Options::default()
    };
    let request = Request {
        model: source.model,
        fetched: source.fetched,
        wanted,
        format,
        options,
        output: arguments.output,
        force: arguments.force,
        fresh: arguments.fresh,
        card: !arguments.no_card,
        calibration: arguments.calibration.request(),
    };
    let resources = Resources {
        threads: arguments.threads.map_or_else(all_cores, usize::from),
        max_memory: arguments.max_memory.map(|size| size.as_u64()),
        log_level: session.log.level(),
        cancel,
        device: arguments.device,
    };
    Ok(run::prepare(&request, &session.catalog()?, &resources)?)
}

/// Options of a plugin; the values of one that is given several times are lines of one text.
fn by_key(options: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in options {
        all.entry(key).and_modify(|lines| *lines = format!("{lines}\n{value}")).or_insert(value);
    }
    all
}

pub(super) fn show_plan(session: &Session, prepared: &Prepared) -> CommandResult {
    let every = session.verbosity >= Verbosity::Verbose;
    session.print(|| report::plan_document(prepared), || report::show_plan(prepared, every))
}

pub(super) fn all_cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The first signal asks the run to stop after what it is at; a second one ends the process at once,
/// which is safe too, and costs no more than the unit at work.
pub(super) fn stop_on_signal(cancel: CancelFlag) {
    let handler = move || {
        if cancel.is_cancelled() {
            #[expect(clippy::exit, reason = "the user insists")]
            std::process::exit(ExitCode::Interrupted as i32);
        }
        cancel.cancel();
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::debug!("signals end the process at once: {error}");
    }
}
