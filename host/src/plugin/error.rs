//! What can go wrong with a plugin.

use std::path::PathBuf;

use qhost_plugin_api::abi::{Failure, FailureKind};

use crate::exit_code::{ExitCode, Fault};

/// A plugin that is missing, cannot be loaded, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder given by the user is not there.
    #[error("the plugin folder {} cannot be read: {source}", path.display())]
    NoFolder {
        /// As given.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// No installed plugin brings the format.
    #[error("no installed plugin brings the format `{format}`")]
    NoPlugin {
        /// As given.
        format: String,
        /// The formats that are there.
        known: Vec<String>,
        /// A plugin that would bring it but cannot be used, with the reason.
        unusable: Option<String>,
    },
    /// There is no plugin with this id.
    #[error("no plugin `{id}` was found")]
    NoSuchId {
        /// As given.
        id: String,
    },
    /// The library cannot be loaded.
    #[error("{} cannot be loaded: {reason}", path.display())]
    CannotLoad {
        /// The library.
        path: PathBuf,
        /// What the loader said, in short.
        reason: String,
    },
    /// The plugin returned a failure.
    #[error("{failure}")]
    Failed {
        /// The plugin's id.
        plugin: String,
        /// What it said.
        failure: Box<Failure>,
    },
}

impl Error {
    /// Whether the user interrupted the plugin.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Failed { failure, .. } if failure.kind == FailureKind::CANCELLED)
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoFolder { .. } => ExitCode::Usage,
            Self::NoPlugin { .. } | Self::NoSuchId { .. } | Self::CannotLoad { .. } => ExitCode::Plugin,
            Self::Failed { failure, .. } => ExitCode::of_failure(failure.kind),
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Failed { failure, .. } => serde_json::from_str(&failure.details).ok(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFolder { .. } => Some("check the path given with --plugin-dir".into()),
            Self::NoPlugin { unusable: Some(reason), .. } => Some(reason.clone()),
            Self::NoPlugin { known, .. } if known.is_empty() => {
                Some("no plugin is installed: keep the `plugins` folder beside the executable, or name one with --plugin-dir; `qhost plugins list` shows what is found".into())
            }
            Self::NoPlugin { known, .. } => Some(format!("installed formats: {}", crate::text::list(known))),
            Self::NoSuchId { .. } => Some("`qhost plugins list` shows what is installed".into()),
            Self::CannotLoad { .. } => Some("install the plugin again, in the version for this qhost".into()),
            Self::Failed { plugin, failure } if failure.hint.is_empty() => usual_hint(plugin, failure.kind),
            Self::Failed { failure, .. } => Some(failure.hint.to_string()),
        }
    }
}

/// What can be said where the plugin itself gives no hint.
fn usual_hint(plugin: &str, kind: FailureKind) -> Option<String> {
    Some(match ExitCode::of_failure(kind) {
        ExitCode::Plugin | ExitCode::Internal => {
            format!("this is a defect of the plugin `{plugin}`: report it to its authors; finished work is kept")
        }
        ExitCode::Corrupt => "the model's files are damaged or do not belong together: fetch them again".into(),
        ExitCode::Unsupported => "choose another level or format; `qhost plugins list` shows what is installed".into(),
        ExitCode::Usage => format!("`qhost plugins info {plugin}` shows its options"),
        _ => return None,
    })
}
