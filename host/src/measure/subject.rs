//! A model that is measured: a checkpoint here or on a hub, or files of a plugin's format.

use std::{path::Path, sync::Arc};

use qhost_plugin_api::documents::Model;

use super::Error;
use crate::{
    calibrate::Weights,
    dataset::Tokenizer,
    hub, inspect,
    plugin::{Catalog, ConnectSettings},
    quantised::{self, QuantisedSource},
    run::{self, Events, ModelSource, OpenedModel, Sources},
    source,
};

/// What a model is, for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The path, or of a hub's model `owner/name@commit`.
    pub source: String,
    /// A short name.
    pub name: String,
    /// The format that its weights are in.
    pub format: String,
    /// The format's level, where the files tell it.
    pub level: Option<String>,
    /// Its family.
    pub architecture: String,
    /// Elements of all its tensors.
    pub parameters: u64,
}

/// A model that can be run.
pub(super) struct Subject {
    pub(super) model: Arc<Model>,
    pub(super) described: Described,
    pub(super) warnings: Vec<String>,
    held: Held,
}

enum Held {
    Checkpoint(Box<OpenedModel>),
    Files(Arc<QuantisedSource>),
}

impl Subject {
    /// Opens what the user names; no weight is read, or fetched.
    pub(super) fn open(
        path: &Path,
        revision: Option<String>,
        hub: &hub::Settings,
        catalog: &Catalog,
        settings: &ConnectSettings,
    ) -> Result<Self, Error> {
        if revision.is_none() && (are_files(path) || inspect::is_folder_of_plugin(path, catalog)) {
            match Self::of_files(path, catalog, settings) {
                // It looked like a folder of a plugin's, and is none: then it is the host's.
                Err(Error::Quantised(quantised::Error::Checkpoint { .. })) => {}
                opened => return opened,
            }
        }
        let source = ModelSource { name: path.to_owned(), revision, hub: hub.clone() };
        let mut opened = run::open_model(&source, &settings.cancel)?;
        let model = Arc::clone(&opened.model);
        let warnings = std::mem::take(&mut opened.warnings);
        let shown = match opened.origin() {
            Some(origin) => format!("{}@{}", origin.id, origin.commit),
            None => opened.root().display().to_string(),
        };
        let described = described(shown, inspect::SAFETENSORS, None, &model);
        Ok(Self { model, described, warnings, held: Held::Checkpoint(Box::new(opened)) })
    }

    fn of_files(path: &Path, catalog: &Catalog, settings: &ConnectSettings) -> Result<Self, Error> {
        let mut files = QuantisedSource::open(path, None, catalog, settings)?;
        let model = Arc::clone(&files.model);
        let warnings = std::mem::take(&mut files.warnings);
        let shown = files.path.display().to_string();
        let described = described(shown, &files.format, files.level.clone(), &model);
        Ok(Self { model, described, warnings, held: Held::Files(Arc::new(files)) })
    }

    /// Its own tokenizer, if it has one.
    pub(super) fn tokenizer(&self) -> Result<Option<Tokenizer>, Error> {
        Ok(match &self.held {
            Held::Checkpoint(opened) => Tokenizer::of_folder(opened.root())?,
            Held::Files(files) => Tokenizer::of(&|name| {
                let file = files.companions.iter().find(|(companion, _)| companion == name);
                Ok(file.map(|(_, bytes)| bytes.clone()))
            })?,
        })
    }

    /// Bytes that a tensor takes while it is used.
    pub(super) fn tensor_bytes(&self, tensor: usize) -> u64 {
        let Some(described) = self.model.tensors.get(tensor) else { return 0 };
        let element = match &self.held {
            Held::Checkpoint(opened) => opened.element_bytes(tensor),
            Held::Files(_) if described.dtype == "F32" => 4,
            Held::Files(_) => 2,
        };
        described.elements().saturating_mul(element)
    }

    /// Its weights; those of a hub's model are fetched if they are not here.
    pub(super) fn weights(&mut self, events: &Arc<dyn Events>) -> Result<Arc<dyn Weights>, Error> {
        Ok(match &mut self.held {
            Held::Checkpoint(opened) => Arc::new(opened.weights(events)?),
            Held::Files(files) => Arc::new(Sources::of_files(Arc::clone(files))),
        })
    }
}

/// Whether something is here that a plugin has to read: no checkpoint, and no name on a hub.
fn are_files(path: &Path) -> bool {
    path.exists() && !source::has_weights(path) && !path.join("config.json").exists()
}

fn described(source: String, format: &str, level: Option<String>, model: &Model) -> Described {
    Described {
        source,
        name: model.name.clone(),
        format: format.to_owned(),
        level,
        architecture: model.family.clone(),
        parameters: model.parameters(),
    }
}
