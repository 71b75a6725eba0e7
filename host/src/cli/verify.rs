//! `qhost verify`.

use qhost_compute::DeviceChoice;

use super::{CommandResult, Session, arguments::VerifyArguments, quantize::all_cores};
use crate::{
    cancel::CancelFlag,
    exit_code::ExitCode,
    report::{self, Problem, Progress, ProgressStyle, Verbosity},
    run::{self, Resources},
    verify::{self, Request},
};

pub(super) fn run(session: &Session, arguments: VerifyArguments) -> CommandResult {
    let resources = Resources {
        threads: arguments.threads.map_or_else(all_cores, usize::from),
        max_memory: None,
        log_level: session.log.level(),
        isolate: session.isolate,
        cancel: CancelFlag::default(),
        device: DeviceChoice::Cpu,
    };
    let request = Request { path: arguments.path, loader: arguments.loader, against: arguments.against };
    let progress = Progress::start(match (session.json, session.verbosity) {
        (_, Verbosity::Quiet) => ProgressStyle::Silent,
        (true, _) => ProgressStyle::Json,
        (false, _) => ProgressStyle::Human,
    });
    let verification = verify::verify(&request, &session.catalog()?, &run::connect(&resources)?, &*progress.events())?;
    drop(progress);
    let failed: Vec<_> = verification.failed().map(|check| format!("{}: {}", check.name, check.detail)).collect();
    let silent = !session.json && session.verbosity == Verbosity::Quiet;
    let Some(first) = failed.first() else {
        if silent {
            return Ok(());
        }
        return session
            .print(|| report::verification_document(&verification), || report::show_verification(&verification));
    };
    if !session.json && !silent {
        super::printed(report::print_text(&report::show_verification(&verification)))?;
    }
    let others = if failed.len() > 1 { format!("; and {} more findings", failed.len() - 1) } else { String::new() };
    let hint = if first.starts_with(verify::COMPARISON) {
        "is the source the very checkpoint that the file was made from?"
    } else {
        "make or fetch the file again; if that gives the same, report it to those who made it"
    };
    let message = format!("{} failed its check: {first}{others}", request.path.display());
    let mut problem = Problem::new(ExitCode::Verification, message, hint);
    problem.details = Some(report::verification_document(&verification));
    Err(problem)
}
