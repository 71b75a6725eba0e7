//! A host in memory, so that a plugin is tested on byte vectors: no files, no loading, no executable.
//!
//! [`TestHost`] runs loops and grants memory, [`TestModel`] holds weights and companions, and
//! [`TestPlugin`] goes through a job as the real host does: it passes every document through its JSON
//! text and every call through the border's objects, holds the plan against the model, and sees to
//! it that every byte is written once. It knows no format.
//!
//! What breaks the contract comes back as a [`Failure`] of kind `PLUGIN`.
//!
//! The crate's `README.md` shows a whole plugin with such a test.

mod activations;
mod conditions;
pub mod conformance;
mod host;
mod job;
mod model;
mod objects;

pub use host::{Message, TestHost};
pub use job::{Made, Metric, TestPlugin};
pub use model::TestModel;

use std::collections::BTreeMap;

use super::{Failure, FailureKind, FilesHandle, FormatService, HostHandle, Result};

/// Files in memory by name, as a plugin gets a model's companions.
///
/// # Errors
/// Does not fail.
pub fn files(contents: BTreeMap<String, Vec<u8>>) -> Result<FilesHandle> {
    FilesHandle::new(objects::files_object(contents))
}

/// What a plugin did that it must not do.
fn broken(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::PLUGIN, message)
}
