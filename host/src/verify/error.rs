//! Why something cannot be checked.

use crate::{
    exit_code::{ExitCode, Fault},
    inspect, model, plugin, source,
};

/// Something that cannot be checked. What is wrong with files is no error here, but a finding.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files cannot be opened.
    #[error(transparent)]
    Inspect(#[from] inspect::Error),
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The checkpoint to compare with cannot be opened.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The checkpoint to compare with cannot be understood.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The format is not known to be loaded by the program.
    #[error("`{loader}` is not known to load {format}")]
    UnknownLoader {
        /// As given.
        loader: String,
        /// The format's id.
        format: String,
        /// The programs that are known.
        known: Vec<String>,
    },
    /// Files whose weights cannot be compared.
    #[error("{format} cannot be compared with a checkpoint")]
    NotComparable {
        /// The format's id.
        format: String,
    },
    /// A plugin that did not do what comparing asks.
    #[error("the plugin `{plugin}` cannot compare: {reason}")]
    CannotCompare {
        /// The plugin.
        plugin: String,
        /// Why.
        reason: String,
    },
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Inspect(error) => error.exit_code(),
            Self::Plugin(error) => error.exit_code(),
            Self::Source(error) => error.exit_code(),
            Self::Model(error) => error.exit_code(),
            Self::UnknownLoader { .. } => ExitCode::Usage,
            Self::NotComparable { .. } => ExitCode::Unsupported,
            Self::CannotCompare { .. } => ExitCode::Plugin,
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
            Self::Source(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::UnknownLoader { known, .. } if known.is_empty() => Some("leave --for out".into()),
            Self::UnknownLoader { known, .. } => Some(format!("--for takes {}", crate::text::list(known))),
            Self::NotComparable { .. } => Some("give a quantised file first, and its original after --against".into()),
            Self::CannotCompare { .. } => Some("install a newer version of the plugin".into()),
        }
    }
}
