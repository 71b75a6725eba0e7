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
    /// What was to be written lies in a mapped file that has been cut short: where others that read it get SIGBUS, the
    /// system refuses to write it.
    #[error("a file of the model was cut short while it was read, or its disk has failed")]
    SourceCut,
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
    /// An error of writing bytes that may be those of a mapped file, for `map_err`.
    pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        // `EFAULT`, which has this number wherever there is such a thing.
        const BAD_ADDRESS: i32 = 14;
        |source| match source.raw_os_error() {
            Some(BAD_ADDRESS) if cfg!(unix) => Self::SourceCut,
            _ => Self::io("write", path)(source),
        }
    }

    /// An error about `path`, for `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { .. } => ExitCode::Resources,
            Self::SourceCut => ExitCode::Corrupt,
            Self::Appeared { .. } | Self::Busy { .. } => ExitCode::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            // `EMFILE` and `ENFILE` have these numbers wherever there are such things.
            Self::Io { source, .. } if cfg!(unix) && matches!(source.raw_os_error(), Some(23 | 24)) => {
                Some("allow more open files (`ulimit -n`), or close other programs".into())
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Some("free some space or choose another disk with -o; what is done is kept, and the same command goes on from there".into())
                }
                _ => Some("choose a folder that can be written with -o".into()),
            },
            Self::SourceCut => Some(
                "fetch the file again, then run the same command; finished work is kept if nothing else has changed".into(),
            ),
            Self::Appeared { .. } => {
                Some("move it away, or replace it with --force; the finished work is kept, and the same command puts it in place".into())
            }
            Self::Busy { .. } => Some("wait for it, or choose another folder with -o".into()),
        }
    }
}
