//! A model that is to be run itself: opened and understood for a plan, and its weights fetched when the work begins.

use std::{path::Path, sync::Arc};

use qhost_plugin_api::documents::Model;

use super::{
    Error, Events, ModelSource, Origin, Sources,
    input::{Input, Read},
};
use crate::cancel::CancelFlag;

/// A model whose weights may yet have to be fetched.
pub struct OpenedModel {
    input: Input,
    /// What it is made of.
    pub model: Arc<Model>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Opens what the user names and understands it; no weight is read.
///
/// # Errors
/// Fails when it is not there, damaged or unknown.
pub fn open_model(source: &ModelSource, cancel: &CancelFlag) -> Result<OpenedModel, Error> {
    let Read { input, model, warnings } = Input::checkpoint(source, cancel)?;
    Ok(OpenedModel { input, model: Arc::new(model), warnings })
}

impl OpenedModel {
    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.input.root()
    }

    /// Where it comes from, if from a hub.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.input.origin()
    }

    /// Bytes of an element of a tensor, as it is lent.
    #[must_use]
    pub fn element_bytes(&self, tensor: usize) -> u64 {
        self.input.element_bytes(&self.model, tensor)
    }

    /// Its weights; those that are missing are fetched first.
    ///
    /// # Errors
    /// Fails when they cannot be fetched.
    pub fn weights(&self, events: &Arc<dyn Events>) -> Result<Sources, Error> {
        self.input.fetch(events)?;
        Ok(self.input.sources(&self.model))
    }
}
