//! What can keep a checkpoint from being understood.

use crate::exit_code::{ExitCode, Fault};

/// A checkpoint that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No family table fits.
    #[error("the architecture {name} is not known")]
    UnknownArchitecture {
        /// `model_type` and the class name, as far as they are there.
        name: String,
    },
    /// The checkpoint is quantised already.
    #[error("the checkpoint is already quantised ({method})")]
    AlreadyQuantised {
        /// Its `quant_method`.
        method: String,
    },
    /// A key of `config.json` is absent.
    #[error("config.json has no `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key of `config.json` has an impossible value.
    #[error("config.json: `{key}` is {value}, {reason}")]
    BadKey {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// `config.json` is no list of settings.
    #[error("config.json is nested more than {most} levels deep")]
    TooDeep {
        /// The most levels that are taken.
        most: usize,
    },
    /// A tensor that the family needs is not there.
    #[error("tensor {name} is not in the checkpoint")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor that the family does not have.
    #[error("tensor {name} does not belong to the family {family}")]
    UnknownTensor {
        /// Its name.
        name: String,
        /// The family.
        family: &'static str,
    },
    /// A tensor has another shape than `config.json` implies.
    #[error("tensor {name} has the shape {actual:?}, config.json implies {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// Its shape.
        actual: Vec<u64>,
        /// The shape by the config.
        expected: Vec<u64>,
    },
    /// A weight is stored in a dtype that is not read.
    #[error("tensor {name} is stored as {dtype}")]
    UnsupportedDtype {
        /// Its name.
        name: String,
        /// Its dtype.
        dtype: String,
    },
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::UnknownArchitecture { .. }
            | Self::AlreadyQuantised { .. }
            | Self::UnknownTensor { .. }
            | Self::UnsupportedDtype { .. } => ExitCode::Unsupported,
            Self::MissingKey { .. }
            | Self::BadKey { .. }
            | Self::TooDeep { .. }
            | Self::MissingTensor { .. }
            | Self::WrongShape { .. } => ExitCode::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownArchitecture { .. } => {
                let known: Vec<_> = super::FAMILIES.iter().map(|family| family.id).collect();
                format!("this version knows {}", crate::text::list(&known))
            }
            Self::AlreadyQuantised { .. } => "give the original checkpoint; `convert`, `inspect`, `verify` and `eval` take a quantised folder that an installed plugin reads (`qhost plugins list`)".into(),
            Self::UnknownTensor { .. } => {
                "weights are never dropped silently: is `model_type` in config.json right, and is this a causal language model without adapters?".into()
            }
            Self::UnsupportedDtype { .. } => "weights are read as F32, F16 or BF16: save the checkpoint in one of them".into(),
            Self::MissingKey { .. } | Self::BadKey { .. } | Self::TooDeep { .. } => "is config.json the one that belongs to these weights?".into(),
            Self::MissingTensor { .. } | Self::WrongShape { .. } => {
                "config.json and weights do not belong together, or the download is incomplete: fetch the checkpoint again".into()
            }
        })
    }
}
