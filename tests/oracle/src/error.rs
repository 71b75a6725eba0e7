//! What can go wrong when llama.cpp is asked for something.

use std::path::PathBuf;

/// A refusal, by this crate or by llama.cpp.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ggml has no type of this number.
    #[error("ggml has no type number {0}")]
    UnknownType(u32),
    /// The type cannot be converted in this direction, or not without an importance matrix.
    #[error("ggml cannot {what} {name}")]
    NotConvertible {
        /// The direction.
        what: &'static str,
        /// The type.
        name: String,
    },
    /// The lengths do not agree with each other or with the type's blocks.
    #[error("{0}")]
    Length(String),
    /// The path cannot be given to C.
    #[error("{} is no path that can be given to C", .0.display())]
    Path(PathBuf),
    /// llama.cpp failed; what it logged is attached.
    #[error("llama.cpp could not {what}: {log}")]
    Llama {
        /// What it was asked for.
        what: String,
        /// Its warnings and errors, or the end of its log.
        log: String,
    },
    /// The model was loaded without weights, or has no vocabulary.
    #[error("the model has no {0}")]
    Missing(&'static str),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What fallible functions return.
pub type Result<T> = std::result::Result<T, Error>;
