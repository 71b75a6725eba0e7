//! Why a plan is not carried out.

use std::path::PathBuf;

use bytesize::ByteSize;

use crate::exit_code::{ExitCode, Fault};

/// A plan that is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's plan contradicts itself or the model.
    #[error("the plugin's plan cannot be carried out: {reason}")]
    Inconsistent {
        /// What is wrong.
        reason: String,
    },
    /// The output is there already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Something that cannot be replaced by the output is in its place.
    #[error("{} exists, and a folder cannot be replaced by a file, nor a file by a folder", path.display())]
    OtherKind {
        /// The output.
        path: PathBuf,
    },
    /// Something of the user's is where the unfinished work would be.
    #[error("{} is in the way: unfinished work is kept there", path.display())]
    Foreign {
        /// What is there.
        path: PathBuf,
    },
    /// The output would lie in the source's folder.
    #[error("the output {} would lie inside the model's own folder", path.display())]
    InsideSource {
        /// The output.
        path: PathBuf,
    },
    /// The disk has not enough room.
    #[error("{} needs {}, and {} are free there", path.display(), ByteSize(*needed), ByteSize(*free))]
    DiskTooSmall {
        /// The output.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk of a hub's cache has not enough room for what has to be fetched.
    #[error("the download into {} needs {}{}, and {} are free there", path.display(), ByteSize(*needed), beside_output(*beside), ByteSize(*free))]
    CacheTooSmall {
        /// The cache.
        path: PathBuf,
        /// Bytes to be fetched.
        needed: u64,
        /// Bytes of the output, where it is on the same disk.
        beside: u64,
        /// Bytes free.
        free: u64,
    },
    /// The memory ceiling is too low.
    #[error("the work needs {} of memory, the ceiling is {}", ByteSize(*needed), ByteSize(*limit))]
    MemoryTooSmall {
        /// Bytes needed.
        needed: u64,
        /// The ceiling.
        limit: u64,
    },
}

fn beside_output(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" beside {} for the output", ByteSize(bytes)) }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Inconsistent { .. } => ExitCode::Plugin,
            Self::Exists { .. } | Self::OtherKind { .. } | Self::Foreign { .. } | Self::InsideSource { .. } => {
                ExitCode::Usage
            }
            Self::DiskTooSmall { .. } | Self::CacheTooSmall { .. } | Self::MemoryTooSmall { .. } => ExitCode::Resources,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Inconsistent { .. } => "this is a defect of the plugin: report it to its authors".into(),
            Self::Exists { .. } => "replace it with --force, or choose another folder with -o".into(),
            Self::OtherKind { .. } | Self::Foreign { .. } => "move it away, or choose another folder with -o".into(),
            Self::InsideSource { .. } => "choose a folder outside the model with -o".into(),
            Self::DiskTooSmall { .. } => "free some space, choose another disk with -o, or a smaller level".into(),
            Self::CacheTooSmall { .. } => {
                "free some space, or choose another disk with HF_HUB_CACHE, or with -o for the output".into()
            }
            Self::MemoryTooSmall { .. } => "raise --max-memory, or use fewer --threads".into(),
        })
    }
}
