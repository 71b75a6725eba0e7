//! `qhost plugins`.

use qhost_compute::DeviceChoice;

use super::{
    CommandResult, Session,
    arguments::{PluginsArguments, PluginsCommand},
    new_plugin,
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
    let resources = Resources {
        threads: all_cores(),
        max_memory: None,
        log_level: session.log.level(),
        cancel: CancelFlag::default(),
        device: DeviceChoice::Cpu,
    };
    let plugin = LoadedPlugin::load(found, manifest, &run::connect(&resources)?)?;
    let description = plugin.describe()?;
    let row = PluginRow { found, description: Some(&description) };
    session.print(|| report::plugins_document(&[row]), || report::show_plugin(&row))
}
