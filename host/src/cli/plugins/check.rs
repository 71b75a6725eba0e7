//! `qhost plugins check`: a plugin is tried in a process of its own, so that nothing it does harms this one.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use qhost_plugin_api::documents::Manifest;
use serde_json::{Value, json};

use super::{CommandResult, Problem, Session, resources};
use crate::{
    cli::arguments::CheckArguments,
    exit_code::ExitCode,
    plugin::{self, Catalog, Found, Quarantine, SearchPath, Status, Trial, process},
    report::{self, CheckedPlugin},
    run,
};

/// How much memory a plugin may take in the process that it is tried in, in bytes.
const MOST_MEMORY: u64 = 4 << 30;

/// How a plugin is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) full: bool,
    pub(super) timeout: Duration,
    pub(super) memory: u64,
}

impl Way {
    /// Loading and describing alone.
    pub(super) const QUICK: Self = Self { full: false, timeout: Duration::from_secs(60), memory: MOST_MEMORY };
}

pub(super) fn run(session: &Session, arguments: &CheckArguments) -> CommandResult {
    if arguments.in_this_process {
        return try_here(session, arguments);
    }
    let found = find(session, &arguments.plugin)?;
    let way = Way {
        full: arguments.full,
        timeout: Duration::from_secs(arguments.timeout),
        memory: arguments.max_memory.map_or(MOST_MEMORY, |size| size.as_u64()),
    };
    let mut checked = try_apart(&found, way)?;
    if arguments.release && checked.passes() {
        release(&mut checked)?;
    }
    let document = || report::checked_plugin_document(&checked);
    if checked.passes() {
        return session.print(document, || report::show_checked_plugin(&checked));
    }
    if !session.json {
        super::super::printed(report::print_text(&report::show_checked_plugin(&checked)))?;
    }
    Err(refusal(&checked, document()))
}

/// What is said of a plugin that does not pass.
pub(super) fn refusal(checked: &CheckedPlugin, document: Value) -> Problem {
    let failed: Vec<_> = checked.trials.iter().filter(|trial| trial.has_failed()).collect();
    let others = if failed.len() > 1 { format!("; and {} more findings", failed.len() - 1) } else { String::new() };
    let first = failed.first().map_or_else(String::new, |trial| format!("{}: {}", trial.check, trial.detail));
    let message = format!("{} did not pass its check: {first}{others}", checked.found.path.display());
    let hint = checked.found.hint.clone().unwrap_or_else(|| {
        "report it to the plugin's authors; `qhost plugins check FILE --full` shows all of it".into()
    });
    let code = if checked.found.manifest.is_none() { ExitCode::Plugin } else { ExitCode::Verification };
    let mut problem = Problem::new(code, message, hint);
    problem.details = Some(document);
    problem
}

/// A library by its path, or a plugin by its id.
fn find(session: &Session, plugin: &str) -> Result<Found, Problem> {
    let path = Path::new(plugin);
    if path.exists() {
        return Ok(at(path, Quarantine::of_process()));
    }
    let catalog = session.catalog()?;
    let found = catalog.found.iter().find(|found| found.id() == Some(plugin));
    found.cloned().ok_or_else(|| {
        let message = format!("there is neither a file nor a plugin `{plugin}`");
        Problem::new(ExitCode::Plugin, message, "give the path of a library, or an id of `qhost plugins list`")
    })
}

/// What can be said of the library at a path without loading it.
pub(super) fn at(path: &Path, quarantine: Option<Quarantine>) -> Found {
    Found::read(path.to_owned(), &SearchPath { quarantine, ..SearchPath::default() })
}

/// Tries a plugin in another process.
pub(super) fn try_apart(found: &Found, way: Way) -> Result<CheckedPlugin, Problem> {
    let mut trials = Vec::new();
    // One that is put away is tried all the same.
    let can_be_tried =
        matches!(found.status, Status::Ready | Status::Shadowed | Status::Quarantined | Status::Unlocked);
    let reason = || found.reason.clone().unwrap_or_default();
    match &found.manifest {
        Some(manifest) if can_be_tried => {
            trials.push(Trial::passed("file", format!("a whole library for this machine, {}", named(manifest))));
            trials.extend(in_another_process(&found.path, way)?);
        }
        _ => trials.push(Trial::failed("file", reason())),
    }
    Ok(CheckedPlugin { found: found.clone(), full: way.full, trials, released: false })
}

fn named(manifest: &Manifest) -> String {
    format!("`{}` {} for plugin API {}", manifest.id, manifest.version, manifest.api)
}

fn in_another_process(path: &Path, way: Way) -> Result<Vec<Trial>, Problem> {
    let internal = |what: &str, error: &dyn std::fmt::Display| {
        let message = format!("the plugin cannot be tried: {what}: {error}");
        Problem::new(ExitCode::Internal, message, "is the executable of this process still in its place?")
    };
    let executable = std::env::current_exe().map_err(|error| internal("the executable", &error))?;
    let mut command = Command::new(executable);
    command.args(["plugins", "check", "--in-this-process", "--json", "--quiet"]).arg("--max-memory");
    command.arg(way.memory.to_string()).args(way.full.then_some("--full")).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| internal("the process", &error))?;
    let hear = |error| internal("a thread", &error);
    let told = process::hear(child.stdout.take()).map_err(hear)?;
    let said = process::hear(child.stderr.take()).map_err(hear)?;
    let status = process::wait(&mut child, way.timeout).map_err(|error| internal("the process", &error))?;
    if status.is_none() {
        let killed = child.kill().and_then(|()| child.wait());
        killed.map_err(|error| internal("the process", &error))?;
    }
    let (told, said) = (told.join().unwrap_or_default(), said.join().unwrap_or_default());
    let mut trials: Vec<Trial> = serde_json::from_slice(&told).unwrap_or_default();
    let Some(status) = status else {
        let words = format!("it was not done after {} s (--timeout)", way.timeout.as_secs());
        trials.push(Trial::failed("return", words));
        return Ok(trials);
    };
    if !status.success() {
        trials.push(Trial::failed("survival", ending(status, &told, &said)));
    } else if trials.is_empty() {
        trials.push(Trial::failed("survival", "it ended the process before it was checked"));
    }
    Ok(trials)
}

/// Why a process ended before it was done, in its own words if it had any.
fn ending(status: ExitStatus, told: &[u8], said: &[u8]) -> String {
    let document: Option<Value> = serde_json::from_slice(told).ok();
    let message = document.as_ref().and_then(|document| document["message"].as_str());
    let last_words = || String::from_utf8_lossy(said).trim().lines().next_back().map(str::to_owned);
    match message.map(str::to_owned).or_else(last_words) {
        Some(message) if !message.is_empty() => message,
        _ => format!("it brought the process down ({status})"),
    }
}

/// The process that a plugin is tried in.
fn try_here(session: &Session, arguments: &CheckArguments) -> CommandResult {
    // Only where there is no other place: this process is there to be brought down.
    let found = at(&PathBuf::from(&arguments.plugin), None);
    let manifest = found.manifest.clone().ok_or_else(|| {
        let reason = found.reason.clone().unwrap_or_default();
        Problem::new(ExitCode::Plugin, reason, found.hint.clone().unwrap_or_default())
    })?;
    if let Some(memory) = arguments.max_memory {
        limit_memory(memory.as_u64());
    }
    let settings = run::connect(&resources(session))?;
    let trials = if arguments.full {
        plugin::conformance_of(&found, &manifest, &settings)
    } else {
        plugin::load_and_describe(&found, &manifest, &settings)
    };
    session.print(|| json!(trials), String::new)
}

/// From now on the process gets no more address space than that.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no other way to set a limit")]
fn limit_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the pointer is that of a structure on the stack.
    if unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) } != 0 {
        tracing::debug!("memory is not limited");
    }
}

/// Memory is not limited here.
#[cfg(not(target_os = "linux"))]
fn limit_memory(_: u64) {}

/// Lets a library be loaded again that was put away.
fn release(checked: &mut CheckedPlugin) -> Result<(), Problem> {
    let bytes = std::fs::read(&checked.found.path);
    let sha256 = bytes.map(|bytes| plugin::digest(&bytes)).unwrap_or_default();
    let Some(quarantine) = Quarantine::of_process() else { return Ok(()) };
    checked.released = quarantine.release(&sha256).map_err(|error| {
        let message = format!("the plugin cannot be released: {error}");
        Problem::new(ExitCode::Resources, message, "see who may write into the user's data folder")
    })?;
    if checked.released {
        checked.found.status = Status::Ready;
        (checked.found.reason, checked.found.hint) = (None, None);
    }
    Ok(())
}

/// The catalog's row of a plugin by its id, usable or not.
pub(super) fn row<'a>(catalog: &'a Catalog, id: &str) -> Option<&'a Found> {
    catalog.found.iter().find(|found| found.id() == Some(id))
}
