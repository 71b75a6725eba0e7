//! A model that is to be run itself: opened and understood for a plan, and its weights fetched when the work begins.

use std::{path::Path, sync::Arc};

use qhost_plugin_api::documents::Model;

use super::{
    Error, Events, ModelSource, Origin, Sources,
    fetch::{self, Missing, Opened},
};
use crate::{
    cancel::CancelFlag,
    model::{self, StoredAs, Understood, Widening},
    source::Checkpoint,
};

/// A model whose weights may yet have to be fetched.
pub struct OpenedModel {
    checkpoint: Checkpoint,
    stored: Vec<StoredAs>,
    missing: Option<Missing>,
    /// What it is made of.
    pub model: Arc<Model>,
    /// Where it comes from, if from a hub.
    pub origin: Option<Origin>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Opens what the user names and understands it; no weight is read.
///
/// # Errors
/// Fails when it is not there, damaged or unknown.
pub fn open_model(source: &ModelSource, cancel: &CancelFlag) -> Result<OpenedModel, Error> {
    let Opened { mut checkpoint, origin, missing } = fetch::open(source, cancel)?;
    let Understood { model, stored, warnings } = model::understand(&checkpoint)?;
    let warnings = std::mem::take(&mut checkpoint.warnings).into_iter().chain(warnings).collect();
    Ok(OpenedModel { checkpoint, stored, missing, model: Arc::new(model), origin, warnings })
}

impl OpenedModel {
    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.checkpoint.root
    }

    /// Whether a tensor is made larger when it is lent.
    #[must_use]
    pub fn is_widened(&self, tensor: usize) -> bool {
        self.stored.get(tensor).is_some_and(|stored| stored.widening != Widening::None)
    }

    /// Its weights; those that are missing are fetched first.
    ///
    /// # Errors
    /// Fails when they cannot be fetched.
    pub fn weights(&mut self, events: &Arc<dyn Events>) -> Result<Sources, Error> {
        if let Some(missing) = self.missing.take() {
            missing.fetch(&mut self.checkpoint, events)?;
        }
        Ok(Sources::new(&self.checkpoint, Arc::clone(&self.model), &self.stored))
    }
}
