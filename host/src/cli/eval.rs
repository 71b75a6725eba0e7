//! `qhost eval`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{
    CommandResult, Session,
    arguments::{EvalArguments, ScoreName},
    quantize::{all_cores, stop_on_signal, style},
};
use crate::{
    cancel::CancelFlag,
    evaluate::Score,
    exit_code::ExitCode,
    hub,
    measure::{self, Request, Windowing},
    report::{self, Problem, Progress, Verbosity},
    run::{self, Resources},
};

pub(super) fn run(session: &Session, arguments: EvalArguments) -> CommandResult {
    let cancel = CancelFlag::default();
    stop_on_signal(cancel.clone(), session.json);
    let resources = Resources {
        threads: arguments.threads.map_or_else(all_cores, usize::from),
        max_memory: arguments.max_memory.map(|size| size.as_u64()),
        log_level: session.log.level(),
        isolate: session.isolate,
        cancel,
        device: arguments.device,
    };
    let score = match arguments.score {
        ScoreName::All => Score::All,
        ScoreName::SecondHalf => Score::SecondHalf,
    };
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let request = Request {
        path: arguments.path,
        against: arguments.against,
        revision: arguments.revision,
        dataset: arguments.dataset,
        windowing: Windowing { ctx: number(arguments.ctx), score },
        windows: arguments.windows.map(number),
        hub: hub::Settings::of_process(),
    };
    // What cannot be written is told before the work, and not after it.
    let page = arguments.html.map(Page::begin).transpose()?;
    let progress = Progress::start(style(session));
    let measurement = measure::measure(&request, &session.catalog()?, &run::connect(&resources)?, &progress.events())?;
    let usage = progress.finish();
    let page = page.map(|page| page.finish(&report::evaluation_page(&measurement))).transpose()?;
    if !session.json && session.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    session.print(
        || report::evaluation_document(&measurement, usage, page.as_deref()),
        || report::show_evaluation(&measurement, usage, page.as_deref()),
    )
}

/// A page that comes into its place whole.
struct Page {
    path: PathBuf,
    draft: NamedTempFile,
}

impl Page {
    fn begin(path: PathBuf) -> Result<Self, Problem> {
        if path.is_dir() {
            return Err(unwritten(&path, &io::ErrorKind::IsADirectory.into()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let draft = tempfile::Builder::new().prefix(".qhost-").suffix(".html").tempfile_in(folder);
        let draft = draft.map_err(|error| unwritten(&path, &error))?;
        Ok(Self { path, draft })
    }

    fn finish(mut self, text: &str) -> Result<PathBuf, Problem> {
        let written = self.draft.write_all(text.as_bytes()).and_then(|()| self.draft.as_file().sync_all());
        written.map_err(|error| unwritten(&self.path, &error))?;
        readable(self.draft.as_file()).map_err(|error| unwritten(&self.path, &error))?;
        self.draft.persist(&self.path).map_err(|error| unwritten(&self.path, &error.error))?;
        Ok(self.path)
    }
}

/// Temporary files are their owner's alone, and pages are for others too.
#[cfg(unix)]
fn readable(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// Nothing need be done here.
#[cfg(not(unix))]
fn readable(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

fn unwritten(path: &Path, error: &io::Error) -> Problem {
    let message = format!("cannot write the page {}: {error}", path.display());
    Problem::new(ExitCode::Resources, message, "choose another place with --html")
}
