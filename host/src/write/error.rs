//! What can go wrong with the output.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::exit_code::{ExitCode, Fault};

/// An output that cannot be written or read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something was put in the output's place while it was being made.
    #[error("{} has appeared while the output was made", path.display())]
    Appeared {
        /// The output.
        path: PathBuf,
    },
    /// Another process works on the same output.
    #[error("another qhost is writing {} just now", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
}

impl Error {
    /// An error about `path`, for `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { .. } => ExitCode::Resources,
            Self::Appeared { .. } | Self::Busy { .. } => ExitCode::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Some("free some space or choose another disk with -o; what is done is kept, and the same command goes on from there".into())
                }
                _ => Some("choose a folder that can be written with -o".into()),
            },
            Self::Appeared { .. } => {
                Some("move it away, or replace it with --force; the finished work is kept, and the same command puts it in place".into())
            }
            Self::Busy { .. } => Some("wait for it, or choose another folder with -o".into()),
        }
    }
}
