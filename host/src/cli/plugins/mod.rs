//! `qhost plugins`.

mod check;
mod install;
mod new_plugin;

use qhost_compute::DeviceChoice;

use super::{
    CommandResult, Problem, Session,
    arguments::{PluginsArguments, PluginsCommand},
    quantize::all_cores,
};
use crate::{
    cancel::CancelFlag,
    plugin::LoadedPlugin,
    report::{self, PluginRow},
    run::{self, Resources},
};

pub(super) fn run(session: &Session, arguments: &PluginsArguments) -> CommandResult {
    match &arguments.command {
        PluginsCommand::List { .. } => list(session),
        PluginsCommand::Info { id, .. } => info(session, id),
        PluginsCommand::Check(arguments) => check::run(session, arguments),
        PluginsCommand::Install(arguments) => install::install(session, arguments),
        PluginsCommand::Remove { id, .. } => install::remove(session, id),
        PluginsCommand::New(arguments) => new_plugin::run(session, arguments),
    }
}

fn list(session: &Session) -> CommandResult {
    let catalog = session.catalog()?;
    let rows: Vec<_> = catalog.found.iter().map(|found| PluginRow { found, description: None }).collect();
    session.print(|| report::plugins_document(&rows), || report::show_plugins(&catalog))
}

fn info(session: &Session, id: &str) -> CommandResult {
    let catalog = session.catalog()?;
    let (found, manifest) = catalog.with_id(id)?;
    let plugin = LoadedPlugin::load(found, manifest, &run::connect(&resources(session))?)?;
    let description = plugin.describe()?;
    let row = PluginRow { found, description: Some(&description) };
    session.print(|| report::plugins_document(&[row]), || report::show_plugin(&row))
}

/// What a plugin may use that is only looked at.
fn resources(session: &Session) -> Resources {
    Resources {
        threads: all_cores(),
        max_memory: None,
        log_level: session.log.level(),
        isolate: session.isolate,
        cancel: CancelFlag::default(),
        device: DeviceChoice::Cpu,
    }
}

/// What `--isolate` starts.
#[cfg(target_os = "linux")]
pub(super) fn serve() -> CommandResult {
    Ok(crate::plugin::serve_as_process()?)
}

/// There is nothing to serve.
#[cfg(not(target_os = "linux"))]
pub(super) fn serve() -> CommandResult {
    let message = "there are no processes for plugins on this system";
    Err(Problem::new(crate::exit_code::ExitCode::Usage, message, "leave --isolate out"))
}
