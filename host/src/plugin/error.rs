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
    #[error("{}", no_such(id, unusable.as_ref()))]
    NoSuchId {
        /// As given.
        id: String,
        /// One that cannot be used: the reason, and what to do.
        unusable: Option<(String, String)>,
    },
    /// The library cannot be loaded.
    #[error("{} cannot be loaded: {reason}", path.display())]
    CannotLoad {
        /// The library.
        path: PathBuf,
        /// What the loader said, in short.
        reason: String,
    },
    /// The list of installed plugins cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    BadLock {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is no plugin, nor an archive with one.
    #[error("{} cannot be installed: {reason}", path.display())]
    NotInstallable {
        /// As given.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The disk refuses to install or remove a plugin.
    #[error("cannot {action} {}: {source}", path.display())]
    Store {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
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
            Self::Store { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ExitCode::NotFound,
            Self::Store { action: "read", .. } => ExitCode::Corrupt,
            Self::Store { .. } => ExitCode::Resources,
            Self::NoPlugin { .. }
            | Self::NoSuchId { .. }
            | Self::CannotLoad { .. }
            | Self::BadLock { .. }
            | Self::NotInstallable { .. } => ExitCode::Plugin,
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
            Self::NoSuchId { unusable: Some((_, hint)), .. } => Some(hint.clone()),
            Self::NoSuchId { .. } => Some("`qhost plugins list` shows what is installed".into()),
            Self::BadLock { .. } => {
                Some("take it from a backup; or remove it, and install the plugins again".into())
            }
            Self::NotInstallable { .. } => {
                Some("name the plugin's library, or a .tar.gz, .tar or .zip with one library in it".into())
            }
            Self::Store { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path".into())
            }
            Self::Store { action: "read", .. } => Some("the file is incomplete or cannot be read: fetch it again".into()),
            Self::Store { .. } => Some("make room, or see who may write there; nothing has changed".into()),
            Self::CannotLoad { .. } => Some("install the plugin again, in the version for this qhost".into()),
            Self::Failed { plugin, failure } if failure.hint.is_empty() => usual_hint(plugin, failure.kind),
            Self::Failed { failure, .. } => Some(failure.hint.to_string()),
        }
    }
}

fn no_such(id: &str, unusable: Option<&(String, String)>) -> String {
    match unusable {
        Some((reason, _)) => format!("the plugin `{id}` cannot be used: {reason}"),
        None => format!("no plugin `{id}` was found"),
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
