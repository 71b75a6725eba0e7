//! `qhost quantize` and `qhost plan`.

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

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
    run::{self, Fetched, Finished, ModelSource, Outcome, Prepared, Request, Resources, Totals, Wanted},
    verify,
};

pub(super) fn plan(session: &Session, arguments: QuantizeArguments) -> CommandResult {
    let QuantizeArguments { model, make } = arguments;
    let (source, cancel) = (Source { model: model.source(), fetched: None }, CancelFlag::default());
    stop_on_signal(cancel.clone(), session.json);
    let runs = prepare(session, source, Wanted::Any, make, cancel)?;
    show_plan(session, &runs)
}

pub(super) fn quantize(session: &Session, arguments: QuantizeArguments) -> CommandResult {
    let QuantizeArguments { model, make } = arguments;
    let (dry_run, no_report) = (make.dry_run, make.no_report);
    let (source, cancel) = (Source { model: model.source(), fetched: None }, CancelFlag::default());
    stop_on_signal(cancel.clone(), session.json);
    let runs = prepare(session, source, Wanted::Checkpoint, make, cancel)?;
    if dry_run {
        return show_plan(session, &runs);
    }
    let made = make_outputs(session, runs, no_report)?;
    if !session.json && session.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    session.print(|| made.document(Made::document), || made.text(Made::text))
}

/// What a command has made.
pub(super) struct AllMade {
    pub(super) outputs: Vec<Made>,
    /// The time that they took together.
    duration: Duration,
    usage: Usage,
}

impl AllMade {
    /// The result for programs, of the documents of the outputs.
    pub(super) fn document(&self, of: impl Fn(&Made) -> Value) -> Value {
        match self.outputs.as_slice() {
            [one] => of(one),
            all => {
                let folder = all.first().and_then(|made| made.outcome.path.parent()).unwrap_or_else(|| Path::new(""));
                report::results_document(&all.iter().map(of).collect::<Vec<_>>(), folder, self.duration, self.usage)
            }
        }
    }

    /// The result for people, of what is said of the outputs.
    pub(super) fn text(&self, of: impl Fn(&Made) -> String) -> String {
        match self.outputs.as_slice() {
            [one] => of(one),
            all => {
                let bytes = all.iter().map(|made| made.outcome.file_bytes).fold(0, u64::saturating_add);
                report::show_results(&all.iter().map(of).collect::<Vec<_>>(), bytes, self.duration)
            }
        }
    }
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

/// Carries plans out, and writes what belongs to the outputs.
pub(super) fn make_outputs(session: &Session, runs: Vec<Prepared>, no_report: bool) -> Result<AllMade, Problem> {
    let began = Instant::now();
    let progress = Progress::start(style(session));
    let finished = run::execute(runs, &progress.events())?;
    let usage = progress.finish();
    let files = finished.iter().filter(|finished| !finished.outcome.path.is_dir()).count();
    let put = |finished: &Finished| -> Result<_, Problem> {
        let beside = finished.put_beside()?;
        let card = finished.put_card()?;
        let document = || format!("{:#}\n", report::report_document(&finished.outcome, usage));
        let name = if files > 1 { verify::report_of(&finished.outcome.path) } else { verify::REPORT.into() };
        let report = (!no_report).then(|| finished.put(&name, document().as_bytes())).transpose()?;
        Ok((report, card, beside))
    };
    let written = finished.iter().map(put).collect::<Result<Vec<_>, _>>()?;
    let outcomes = run::tidy_up(finished)?;
    let outputs = outcomes.into_iter().zip(written);
    let outputs = outputs.map(|(outcome, (report, card, beside))| Made { outcome, usage, report, card, beside });
    Ok(AllMade { outputs: outputs.collect(), duration: began.elapsed(), usage })
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

/// Prepares runs of a model, one for each format.
pub(super) fn prepare(
    session: &Session,
    source: Source,
    wanted: Wanted,
    arguments: MakeArguments,
    cancel: CancelFlag,
) -> Result<Vec<Prepared>, Problem> {
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
        formats: arguments.format,
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
        isolate: session.isolate,
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

pub(super) fn show_plan(session: &Session, runs: &[Prepared]) -> CommandResult {
    let every = session.verbosity >= Verbosity::Verbose;
    if let [one] = runs {
        return session.print(|| report::plan_document(one), || report::show_plan(one, every));
    }
    let totals = Totals::of(runs);
    let folder = runs.first().and_then(|run| run.output().parent().map(Path::to_owned)).unwrap_or_default();
    session.print(
        || report::plans_document(&runs.iter().map(report::plan_document).collect::<Vec<_>>(), &folder, &totals),
        || report::show_plans(runs, every, &totals),
    )
}

pub(super) fn all_cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The first signal asks the run to stop after what it is at; a second one ends the process at once,
/// which is safe too, and costs no more than the unit at work.
pub(super) fn stop_on_signal(cancel: CancelFlag, as_json: bool) {
    let handler = move || {
        if cancel.is_cancelled() {
            // Whoever should hear of it may not be listening.
            let (told, hears) = mpsc::channel();
            thread::spawn(move || {
                let hint = "run the same command again to go on from what is finished";
                let problem = Problem::new(ExitCode::Interrupted, "interrupted in the midst of the work", hint);
                report::show_problem(&problem, as_json);
                let _ = told.send(());
            });
            let _ = hears.recv_timeout(Duration::from_secs(1));
            #[expect(clippy::exit, reason = "the user insists")]
            std::process::exit(ExitCode::Interrupted as i32);
        }
        cancel.cancel();
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::debug!("signals end the process at once: {error}");
    }
}
