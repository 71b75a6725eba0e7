//! `qhost convert`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal},
    path::Path,
};

use super::{
    CommandResult, Session,
    arguments::ConvertArguments,
    quantize::{Made, Source, all_cores, make_outputs, prepare, show_plan, stop_on_signal, style},
};
use crate::{
    cancel::CancelFlag,
    evaluate::Score,
    exit_code::ExitCode,
    hub,
    measure::{self, Measurement, Windowing},
    report::{self, Problem, Progress, Verbosity},
    run::{self, ModelSource, Prepared, Resources, Wanted},
};

/// Tokens of a window of a text that losses are measured on, as of `qhost eval`.
const WINDOW: usize = 512;

pub(super) fn run(session: &Session, arguments: ConvertArguments) -> CommandResult {
    let ConvertArguments { model, revision, make, yes, against, dataset } = arguments;
    let (dry_run, no_report) = (make.dry_run, make.no_report);
    let cancel = CancelFlag::default();
    let resources = Resources {
        threads: make.threads.map_or_else(all_cores, usize::from),
        max_memory: make.max_memory.map(|size| size.as_u64()),
        log_level: session.log.level(),
        isolate: session.isolate,
        cancel: cancel.clone(),
        device: make.device,
    };
    let model = ModelSource { name: model, revision, hub: hub::Settings::of_process() };
    stop_on_signal(cancel.clone(), session.json);
    let progress = Progress::start(style(session));
    let fetched = run::fetch_whole(&model, &cancel, &progress.events())?;
    let _ = progress.finish();
    let path = fetched.as_ref().map_or_else(|| model.name.clone(), |fetched| fetched.root.clone());
    let runs = prepare(session, Source { model, fetched }, Wanted::Quantised, make, cancel)?;
    if dry_run {
        return show_plan(session, &runs);
    }
    runs.iter().try_for_each(|run| consent(session, run, yes))?;
    if let Some(original) = &against {
        // What it is measured against is looked for before the work, and not after it.
        let hub = hub::Settings::of_process();
        measure::look_for(original, &hub, &session.catalog()?, &run::connect(&resources)?)?;
    }
    let made = make_outputs(session, runs, no_report)?;
    let measured = match against {
        None => None,
        Some(original) => {
            let measure = |path: &Path| measure(session, path, &original, dataset.clone(), &resources);
            let outputs =
                made.outputs.iter().map(|made| Ok((made.outcome.path.clone(), measure(&made.outcome.opened())?)));
            Some((measure(&path)?, outputs.collect::<Result<BTreeMap<_, _>, Problem>>()?))
        }
    };
    let of = |made: &Made| {
        let (source, outputs) = measured.as_ref()?;
        Some((source, outputs.get(&made.outcome.path)?))
    };
    if !session.json && session.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    session.print(
        || made.document(|made| report::with_losses(made.document(), of(made))),
        || made.text(|made| format!("{}{}", made.text(), report::show_losses(of(made)))),
    )
}

/// Goes on if nothing is lost that matters, or the user agrees.
fn consent(session: &Session, prepared: &Prepared, yes: bool) -> CommandResult {
    let Some(question) = prepared.loss.as_ref().and_then(report::question) else { return Ok(()) };
    if yes {
        return Ok(());
    }
    let refused = |message: String| {
        let hint = "give --yes to convert all the same, or quantise the original checkpoint; --dry-run shows all of it";
        Problem::new(ExitCode::Confirmation, message, hint)
    };
    let answers = !session.json && io::stdin().is_terminal() && io::stderr().is_terminal();
    if !answers {
        return Err(refused(question));
    }
    report::ask(&format!("{question}. Convert all the same? [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    // Whoever ends the input has not agreed.
    let agreed = read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if agreed { Ok(()) } else { Err(refused("the conversion was not confirmed".into())) }
}

/// Holds a model against the original.
fn measure(
    session: &Session,
    path: &Path,
    original: &Path,
    dataset: Option<String>,
    resources: &Resources,
) -> Result<Measurement, Problem> {
    let request = measure::Request {
        path: path.to_owned(),
        against: Some(original.to_owned()),
        revision: None,
        dataset,
        windowing: Windowing { ctx: WINDOW, score: Score::SecondHalf },
        windows: None,
        hub: hub::Settings::of_process(),
    };
    let progress = Progress::start(style(session));
    let measured = measure::measure(&request, &session.catalog()?, &run::connect(resources)?, &progress.events())?;
    let _ = progress.finish();
    Ok(measured)
}
