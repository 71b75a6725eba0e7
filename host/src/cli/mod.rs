//! The command line: arguments as written, what they mean, and one file per command.
//!
//! It knows exit codes and streams; the work itself is in the other rooms.

mod arguments;
mod completions;
mod plugins;
mod quantize;

use std::{ffi::OsString, io::Write, path::PathBuf};

use clap::{Parser, error::ErrorKind};

use self::arguments::{Command, CommandLine, Global, OutputFormat};
use crate::{
    exit_code::ExitCode,
    plugin::{self, Catalog, SearchPath, SearchSettings},
    report::{self, LogSettings, Problem, Verbosity},
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
    let log = LogSettings { verbosity: session.verbosity, file: line.global.log_file.as_deref() };
    if let Err(error) = report::start_logging(log) {
        let path = line.global.log_file.unwrap_or_default();
        let problem = Problem {
            code: ExitCode::Resources,
            message: format!("cannot write the log file {}: {error}", path.display()),
            hint: Some("choose another place with --log-file".into()),
        };
        return session.failed(&problem);
    }
    let session = Session { log_level: log.level(), ..session };
    let outcome = match line.command {
        Command::Quantize(arguments) => quantize::quantize(&session, arguments),
        Command::Plan(arguments) => quantize::plan(&session, arguments),
        Command::Plugins(arguments) => plugins::run(&session, &arguments),
        Command::Completions(arguments) => {
            completions::print(arguments.shell);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::Done,
        Err(problem) => session.failed(&problem),
    }
}

/// What holds for any command.
struct Session {
    verbosity: Verbosity,
    json: bool,
    plugin_dirs: Vec<PathBuf>,
    log_level: u32,
}

impl Session {
    fn new(global: &Global, own_format: Option<OutputFormat>) -> Self {
        let format = if global.json { OutputFormat::Json } else { own_format.unwrap_or(global.output_format) };
        Self {
            verbosity: global.verbosity(),
            json: format == OutputFormat::Json,
            plugin_dirs: global.plugin_dirs.clone(),
            log_level: 0,
        }
    }

    fn catalog(&self) -> Result<Catalog, plugin::Error> {
        Catalog::search(&SearchPath::new(&SearchSettings::of_process(self.plugin_dirs.clone())))
    }

    fn failed(&self, problem: &Problem) -> ExitCode {
        report::show_problem(problem, self.json);
        problem.code
    }
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
            let text = error.render().to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let hint = Some("`qhost --help` shows the commands and options".to_owned());
            report::show_problem(&Problem { code: ExitCode::Usage, message, hint }, true);
            ExitCode::Usage
        }
        _ => {
            let _ = error.print();
            let _ = std::io::stderr().flush();
            ExitCode::Usage
        }
    }
}
