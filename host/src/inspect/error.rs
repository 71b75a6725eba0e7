//! Why files cannot be looked at.

use std::{io, path::PathBuf};

use crate::{
    exit_code::{ExitCode, Fault},
    plugin, source,
};

/// Files that cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The plugin is missing or failed, or the file is damaged.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A folder with nothing in it that is read.
    #[error("{} has no file that can be read", path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// Endings of files that are read.
        endings: Vec<String>,
    },
    /// A folder with several models.
    #[error("{} has the weights of {} models", path.display(), models.len())]
    Several {
        /// The folder.
        path: PathBuf,
        /// A file of each.
        models: Vec<String>,
    },
    /// No plugin reads the file.
    #[error("{} is in no format that is known here", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Endings of files that are read.
        endings: Vec<String>,
    },
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Source(error) => error.exit_code(),
            Self::Plugin(error) => error.exit_code(),
            Self::Unreadable { .. } => ExitCode::NotFound,
            Self::Several { .. } => ExitCode::Usage,
            Self::Nothing { .. } | Self::Unknown { .. } => ExitCode::Unsupported,
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Plugin(error) => error.details(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Source(source::Error::Missing { .. }) => Some("check the path; it may be a file or a folder".into()),
            Self::Source(error) => error.hint(),
            Self::Plugin(error) => error.hint(),
            Self::Unreadable { .. } => Some("check the path and its permissions".into()),
            Self::Several { models, .. } => Some(format!("name one of the files: {}", some(models))),
            Self::Nothing { endings, .. } | Self::Unknown { endings, .. } => Some(format!(
                "with the installed plugins these are read: {}; `qhost plugins list` shows the plugins",
                crate::text::list(&endings.iter().map(|ending| format!("*.{ending}")).collect::<Vec<_>>())
            )),
        }
    }
}

/// The first few of a list.
fn some(names: &[String]) -> String {
    let (first, more) = names.split_at(names.len().min(4));
    let first = crate::text::list(first);
    if more.is_empty() { first } else { format!("{first}, and {} more", more.len()) }
}
