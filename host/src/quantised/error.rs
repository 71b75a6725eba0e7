//! Why files are no source of weights.

use std::{io, path::PathBuf};

use qhost_plugin_api::abi::Failure;

use crate::{
    exit_code::{ExitCode, Fault},
    inspect, model, plugin,
};

/// Files that are no source of weights.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files cannot be opened.
    #[error(transparent)]
    Inspect(#[from] inspect::Error),
    /// The plugin cannot read them, or gives no weights.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// What the files tell is no model that is known.
    #[error("what {} tells of its model does not fit: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        source: model::Error,
    },
    /// A checkpoint, which is read otherwise.
    #[error("{} is a checkpoint and not quantised", path.display())]
    Checkpoint {
        /// What the user named.
        path: PathBuf,
    },
    /// Parts of a split model are not there.
    #[error("{}: {what}", path.display())]
    Incomplete {
        /// What the user named.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// A file has gone.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// What the user named.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// There is no room for rows in an encoding.
    #[error("{}", failure.message)]
    NoRoom {
        /// Why.
        failure: Box<Failure>,
    },
    /// Rows were asked for that there are not.
    #[error("tensor {tensor} has no {rows} rows from {first_row} on")]
    NoRows {
        /// The tensor's id.
        tensor: u32,
        /// The first row.
        first_row: u64,
        /// How many.
        rows: u64,
    },
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Inspect(error) => error.exit_code(),
            Self::Plugin(error) => error.exit_code(),
            Self::Model { source, .. } => source.exit_code(),
            Self::Checkpoint { .. } => ExitCode::Usage,
            Self::Incomplete { .. } => ExitCode::Corrupt,
            Self::Unreadable { .. } => ExitCode::NotFound,
            Self::NoRoom { .. } => ExitCode::Resources,
            Self::NoRows { .. } => ExitCode::Internal,
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Inspect(error) => error.details(),
            Self::Plugin(error) => error.details(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Inspect(error) => error.hint(),
            Self::Plugin(error) => error.hint(),
            Self::Model { source, .. } => source.hint(),
            Self::Incomplete { .. } => Some("put all parts of the model beside each other".into()),
            Self::Unreadable { .. } => Some("check that it is still there".into()),
            Self::Checkpoint { .. } | Self::NoRoom { .. } | Self::NoRows { .. } => None,
        }
    }
}
