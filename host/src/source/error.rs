//! What can be wrong with a checkpoint folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::exit_code::{ExitCode, Fault};

/// A checkpoint that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there.
    #[error("no such model: {} does not exist", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A file where a folder is expected.
    #[error("{} is a file, not a checkpoint folder", path.display())]
    NotAFolder {
        /// As given.
        path: PathBuf,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The folder has no `config.json`.
    #[error("{} has no config.json", root.display())]
    NoConfig {
        /// The folder.
        root: PathBuf,
    },
    /// A JSON file is not what it should be.
    #[error("{} is not valid: {reason}", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder has no safetensors weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json", root.display())]
    NoWeights {
        /// The folder.
        root: PathBuf,
        /// A weight file in another form that is there.
        pickle: Option<String>,
        /// A safetensors file under another name that is there.
        other: Option<String>,
    },
    /// The index names a file that is not there.
    #[error("{} is missing, though model.safetensors.index.json names it", path.display())]
    MissingShard {
        /// The file.
        path: PathBuf,
    },
    /// A weight file ends too early or goes on too long.
    #[error("{} is {actual} bytes long where its header tells of {expected}", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Length by the header.
        expected: u64,
        /// Length on disk.
        actual: u64,
    },
    /// A weight file's header cannot be trusted.
    #[error("{} has a damaged header: {reason}", path.display())]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the index promises is not in its file.
    #[error("tensor {tensor} is not in {file}, though model.safetensors.index.json says so")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file's name.
        file: String,
    },
    /// Two weight files hold the same tensor.
    #[error("tensor {tensor} is in both {first} and {second}")]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// A file's name.
        first: String,
        /// The other file's name.
        second: String,
    },
}

impl Error {
    /// The same error about a folder that goes by another name: `now` stands in place of `was`.
    #[must_use]
    pub fn renamed(mut self, was: &Path, now: &Path) -> Self {
        match &mut self {
            Self::Missing { path }
            | Self::NotAFolder { path }
            | Self::Unreadable { path, .. }
            | Self::NoConfig { root: path }
            | Self::BadJson { path, .. }
            | Self::NoWeights { root: path, .. }
            | Self::MissingShard { path }
            | Self::WrongLength { path, .. }
            | Self::BadHeader { path, .. } => {
                if path == was {
                    now.clone_into(path);
                } else if let Ok(inside) = path.strip_prefix(was) {
                    *path = now.join(inside);
                }
            }
            Self::NotInShard { .. } | Self::Duplicate { .. } => {}
        }
        self
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            // Mapping a file takes address space.
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => ExitCode::Resources,
            Self::Missing { .. } | Self::Unreadable { .. } => ExitCode::NotFound,
            Self::NotAFolder { .. } | Self::NoWeights { pickle: Some(_), other: None, .. } => ExitCode::Unsupported,
            Self::NoConfig { .. }
            | Self::BadJson { .. }
            | Self::NoWeights { .. }
            | Self::MissingShard { .. }
            | Self::WrongLength { .. }
            | Self::BadHeader { .. }
            | Self::NotInShard { .. }
            | Self::Duplicate { .. } => ExitCode::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } => {
                "give the path of a folder with config.json and *.safetensors, or the name of a model on the Hub (org/name, or hf://org/name)".into()
            }
            Self::NotAFolder { .. } => "give the folder with config.json and *.safetensors".into(),
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => {
                "raise the limit of the process's address space (`ulimit -v`)".into()
            }
            Self::Unreadable { .. } => "check the path and its permissions".into(),
            Self::NoConfig { .. } => {
                "is it the right folder? a checkpoint has its config.json beside the weights".into()
            }
            Self::NoWeights { pickle: Some(file), other: None, .. } => {
                format!(
                    "{file} runs code when it is loaded, so it is not read: convert it to safetensors with transformers (`model.save_pretrained(…)`)"
                )
            }
            Self::NoWeights { other: Some(file), .. } => format!(
                "{file} alone does not tell what belongs to the model: fetch the file model.safetensors.index.json too, or rename the only weight file to model.safetensors"
            ),
            Self::BadJson { .. }
            | Self::NoWeights { .. }
            | Self::MissingShard { .. }
            | Self::WrongLength { .. }
            | Self::BadHeader { .. } => "the download is probably incomplete: fetch the file again".into(),
            Self::NotInShard { .. } | Self::Duplicate { .. } => {
                "index and weight files do not belong together: fetch them again into an empty folder".into()
            }
        })
    }
}
