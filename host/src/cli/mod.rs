//! The command line: arguments as written, what they mean, and one file per command.
//!
//! It knows exit codes and streams; the work itself is in the other rooms.

mod arguments;
mod completions;
mod convert;
mod eval;
mod inspect;
mod man;
mod model;
mod plugins;
mod quantize;
mod verify;

use std::{
    ffi::OsString,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use clap::{Parser, error::ErrorKind};
use serde_json::Value;

use self::arguments::{Command, CommandLine, Global, OutputFormat};
use crate::{
    exit_code::ExitCode,
    plugin::{self, Catalog, SearchPath, SearchSettings},
    report::{self, LogSettings, Problem, Verbosity},
    signals,
};

/// What a command may fail with, ready to be shown.
type CommandResult = Result<(), Problem>;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

fn run(arguments: Vec<OsString>) -> ExitCode {
    let wants_json = wants_json(&arguments);
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => return show_usage(&error, wants_json),
    };
    let session = Session::new(&line.global, line.command.output_format());
    let log_file = line.global.log_file.clone();
    // A panic is a defect, and ends like any other error. Its own message is on standard error already.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run_command(&session, line)));
    let defect = |_| {
        let hint = "this is a defect of qhost: please report it, with the message above; finished work is kept";
        Err(Problem::new(ExitCode::Internal, "qhost came to a state that it should never be in", hint))
    };
    match outcome.unwrap_or_else(defect) {
        Ok(()) => ExitCode::Done,
        Err(mut problem) => {
            if let Some(log) = log_file.filter(|_| problem.code == ExitCode::Internal) {
                problem.hint = problem.hint.map(|hint| format!("{hint}; {} tells more", log.display()));
            }
            report::show_problem(&problem, session.json);
            problem.code
        }
    }
}

fn run_command(session: &Session, line: CommandLine) -> CommandResult {
    signals::answer(session.json);
    plugin::watch(session.json);
    report::start_logging(&session.log).map_err(|error| {
        let path = session.log.file.as_deref().unwrap_or_else(|| Path::new("")).display();
        let message = format!("cannot write the log file {path}: {error}");
        Problem::new(ExitCode::Resources, message, "choose another place with --log-file")
    })?;
    match line.command {
        Command::Quantize(arguments) => quantize::quantize(session, arguments),
        Command::Convert(arguments) => convert::run(session, arguments),
        Command::Plan(arguments) => quantize::plan(session, arguments),
        Command::Inspect(arguments) => inspect::run(session, &arguments),
        Command::Verify(arguments) => verify::run(session, arguments),
        Command::Eval(arguments) => eval::run(session, arguments),
        Command::Plugins(arguments) => plugins::run(session, &arguments),
        Command::PluginProcess => plugins::serve(),
        Command::Completions(arguments) => completions::print(arguments.shell),
        Command::Man(arguments) => man::print(arguments.folder.as_deref()),
    }
}

/// What holds for any command.
struct Session {
    verbosity: Verbosity,
    json: bool,
    plugin_dirs: Vec<PathBuf>,
    locked: bool,
    isolate: bool,
    log: LogSettings,
}

impl Session {
    fn new(global: &Global, own_format: Option<OutputFormat>) -> Self {
        let format = if global.json { OutputFormat::Json } else { own_format.unwrap_or(global.output_format) };
        let (verbosity, json) = (global.verbosity(), format == OutputFormat::Json);
        Self {
            verbosity,
            json,
            plugin_dirs: global.plugins.plugin_dirs.clone(),
            locked: global.plugins.locked,
            isolate: global.plugins.isolate,
            log: LogSettings { verbosity, json, file: global.log_file.clone() },
        }
    }

    fn catalog(&self) -> Result<Catalog, plugin::Error> {
        Catalog::search(&SearchPath::new(&SearchSettings::of_process(self.plugin_dirs.clone(), self.locked)))
    }

    /// Prints a command's result in the form that was asked for.
    fn print(&self, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> CommandResult {
        printed(if self.json { report::print_json(&document()) } else { report::print_text(&text()) })
    }
}

/// The outcome of printing a result.
fn printed(outcome: io::Result<()>) -> CommandResult {
    outcome.map_err(|error| {
        let message = format!("cannot write the result to standard output: {error}");
        Problem::new(ExitCode::Resources, message, "the work itself is done; look at where standard output goes")
    })
}

/// Whether the caller reads JSON, as far as that can be told from arguments that may be wrong.
fn wants_json(arguments: &[OsString]) -> bool {
    let arguments: Vec<_> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let is_format = |name: &str| ["--output-format", "--format"].contains(&name);
    arguments
        .iter()
        .any(|argument| *argument == "--json" || *argument == "--output-format=json" || *argument == "--format=json")
        || arguments.windows(2).any(|pair| is_format(pair[0]) && pair[1] == "json")
}

/// Shows what clap says: help and version are data, anything else is an error.
fn show_usage(error: &clap::Error, as_json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone away is no error.
            let _ = error.print();
            ExitCode::Done
        }
        _ if as_json => {
            // The first paragraph; what follows is the usage and where to get help.
            let text = error.render().to_string();
            let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let message = lines.join(" ").trim_start_matches("error: ").to_owned();
            let hint = "`qhost --help` shows the commands and options";
            report::show_problem(&Problem::new(ExitCode::Usage, message, hint), true);
            ExitCode::Usage
        }
        _ => {
            let _ = error.print();
            let _ = io::stderr().flush();
            ExitCode::Usage
        }
    }
}
