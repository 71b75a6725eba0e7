//! A model that is measured: a checkpoint here or on a hub, or files of a plugin's format.

use std::{path::Path, sync::Arc};

use qhost_compute::Dtype;
use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::Model,
};
use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::ParallelSliceMut,
};

use super::Error;
use crate::{
    calibrate::{Lent, Weights},
    dataset::Tokenizer,
    exit_code::Fault,
    hub, inspect,
    plugin::{Catalog, ConnectSettings},
    quantised::{self, QuantisedSource},
    run::{self, Events, ModelSource, OpenedModel},
    source,
};

/// Weights that are decoded at a time by a thread.
const PIECE: usize = 1 << 18;

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
        let shown = match &opened.origin {
            Some(origin) => format!("{}@{}", origin.id, origin.commit),
            None => opened.root().display().to_string(),
        };
        let described = described(shown, inspect::SAFETENSORS, None, &model);
        Ok(Self { model, described, warnings, held: Held::Checkpoint(Box::new(opened)) })
    }

    fn of_files(path: &Path, catalog: &Catalog, settings: &ConnectSettings) -> Result<Self, Error> {
        let mut files = QuantisedSource::open(path, catalog, settings)?;
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
        let widened = match &self.held {
            Held::Checkpoint(opened) => opened.is_widened(tensor),
            Held::Files(_) => true,
        };
        let element = if widened || described.dtype == "F32" { 4 } else { 2 };
        described.elements().saturating_mul(element)
    }

    /// Its weights; those of a hub's model are fetched if they are not here.
    pub(super) fn weights(&mut self, events: &Arc<dyn Events>) -> Result<Arc<dyn Weights>, Error> {
        Ok(match &mut self.held {
            Held::Checkpoint(opened) => Arc::new(opened.weights(events)?),
            Held::Files(files) => Arc::new(Decoded(Arc::clone(files))),
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

/// Weights that a plugin decodes.
struct Decoded(Arc<QuantisedSource>);

impl Weights for Decoded {
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure> {
        let source = self.0.model.tensors.get(tensor as usize);
        let width = source.map_or(0, |source| usize::try_from(source.row_elements()).unwrap_or(usize::MAX)).max(1);
        let count = usize::try_from(rows).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.saturating_mul(width).saturating_mul(4)];
        let rows_of_piece = (PIECE / width).max(1);
        let pieces = bytes.par_chunks_mut(rows_of_piece * width * 4).enumerate();
        pieces.try_for_each(|(piece, bytes)| {
            let (first, rows) = (first_row + (piece * rows_of_piece) as u64, bytes.len() / width / 4);
            let numbers = self.0.rows(tensor, first, rows as u64).map_err(|error| as_failure(&error))?;
            for (bytes, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
                *bytes = number.to_le_bytes();
            }
            Ok(())
        })?;
        Ok(Lent::new(Dtype::F32, bytes))
    }
}

fn as_failure(error: &impl Fault) -> Failure {
    let kind = FailureKind(error.exit_code() as u32);
    Failure::new(kind, error.to_string()).hint(error.hint().unwrap_or_default())
}
