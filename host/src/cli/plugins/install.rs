//! `qhost plugins install` and `remove`.

use std::path::Path;

use super::{
    CommandResult, Problem, Session,
    check::{self, Way},
};
use crate::{
    cli::arguments::InstallArguments,
    exit_code::ExitCode,
    plugin::{Found, Installed, Quarantine, SearchSettings, Staged, Status, Store},
    report::{self, Change},
};

/// The user's store.
fn store() -> Result<Store, Problem> {
    let data = SearchSettings::of_process(Vec::new(), false).data_folder;
    data.map(|data| Store::in_data(&data)).ok_or_else(|| {
        Problem::new(ExitCode::Resources, "there is no folder for this user's data", "set HOME or XDG_DATA_HOME")
    })
}

pub(super) fn install(session: &Session, arguments: &InstallArguments) -> CommandResult {
    let store = store()?;
    let before = store.entries()?;
    let staged = store.stage(&arguments.file)?;
    let found = check::at(&staged.library, Quarantine::of_process());
    if found.status == Status::Quarantined {
        return Err(unusable(&arguments.file, &found));
    }
    let checked = check::try_apart(&found, Way::QUICK)?;
    let Some(manifest) = found.manifest.as_ref().filter(|_| checked.passes()) else {
        let mut problem = check::refusal(&checked, report::checked_plugin_document(&checked));
        let reason = problem.message.split_once(": ").map_or("", |(_, reason)| reason).to_owned();
        problem.message = format!("{} is not installed: {reason}", arguments.file.display());
        problem.code = ExitCode::Plugin;
        return Err(problem);
    };
    let present = before.iter().find(|entry| entry.id == manifest.id);
    if session.locked {
        held_to_the_lock(&store, &staged, present, &manifest.id)?;
    } else if let Some(present) = present.filter(|present| present.origin != staged.origin && !arguments.yes) {
        return Err(other_origin(present, &staged));
    }
    let id = manifest.id.clone();
    let replaced = store.install(staged, manifest)?;
    let catalog = session.catalog()?;
    let row = catalog.found.iter().find(|found| found.installed.as_ref().is_some_and(|entry| entry.id == id));
    let row = row.ok_or_else(|| {
        Problem::new(ExitCode::Internal, "the plugin is installed and not in the list", "see `qhost plugins list`")
    })?;
    let replaced = replaced.filter(|before| row.installed.as_ref() != Some(before));
    let change = Change { row: Some(row), replaced: replaced.as_ref(), removed: None };
    session.print(|| report::change_document(&change), || report::show_change(&change))
}

/// With `--locked`, only what the list of installed plugins has is put in its place again.
fn held_to_the_lock(store: &Store, staged: &Staged, present: Option<&Installed>, id: &str) -> Result<(), Problem> {
    if present.is_some_and(|present| present.sha256 == staged.sha256) {
        return Ok(());
    }
    let listed = present.map_or_else(|| "no such plugin".to_owned(), |entry| format!("the library {}", entry.sha256));
    let message =
        format!("`{id}` is not installed: {} has {listed}, this is {}", store.lock_file().display(), staged.sha256);
    Err(Problem::new(ExitCode::Plugin, message, "install the very file that the list tells of, or leave --locked out"))
}

fn other_origin(present: &Installed, staged: &Staged) -> Problem {
    let Installed { id, version, origin, .. } = present;
    let message = format!("`{id}` {version} was installed from {origin}, and this comes from {}", staged.origin);
    let hint = "a plugin's code runs with your rights: give --yes if you trust that file as well";
    Problem::new(ExitCode::Confirmation, message, hint)
}

fn unusable(file: &Path, found: &Found) -> Problem {
    let message = format!("{} is not installed: {}", file.display(), found.reason.as_deref().unwrap_or_default());
    let check = format!("`qhost plugins check {} --full --release`", file.display());
    Problem::new(
        ExitCode::Plugin,
        message,
        format!("install a fixed build; or, if it was not the plugin's fault: {check}"),
    )
}

pub(super) fn remove(session: &Session, id: &str) -> CommandResult {
    let Some(removed) = store()?.remove(id)? else {
        let catalog = session.catalog()?;
        let (message, hint) = match check::row(&catalog, id) {
            Some(found) => {
                let path = found.path.display();
                (
                    format!("`{id}` was not installed by `qhost plugins install`"),
                    format!("it is used from {path}: remove that file"),
                )
            }
            None => (format!("no plugin `{id}` is installed"), "`qhost plugins list` shows what is".into()),
        };
        return Err(Problem::new(ExitCode::Plugin, message, hint));
    };
    let catalog = session.catalog()?;
    let row = check::row(&catalog, id);
    let change = Change { row, replaced: None, removed: Some(&removed) };
    session.print(|| report::change_document(&change), || report::show_change(&change))
}
