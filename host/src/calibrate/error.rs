//! What can go wrong while a model is run.

use std::path::PathBuf;

use qhost_plugin_api::abi::Failure;

use crate::exit_code::{ExitCode, Fault};

/// A model that cannot be run, or not on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The family's arithmetic is not known, or not this part of it.
    #[error("the architecture {family} cannot be run here: {reason}")]
    NoForward {
        /// The family.
        family: String,
        /// What is missing.
        reason: String,
    },
    /// A key of the config that the arithmetic needs.
    #[error("config.json: `{key}` is {value}, {reason}")]
    BadKey {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// A tensor that the arithmetic needs.
    #[error("layer {layer} has no {role}")]
    MissingModule {
        /// The layer, from 0.
        layer: String,
        /// Its role.
        role: String,
    },
    /// A token that the model does not have.
    #[error("token {token} of sample {sample} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// The sample, from 0.
        sample: usize,
        /// How many there are.
        vocabulary: u64,
    },
    /// A sample that the model's positions do not reach.
    #[error("sample {sample} has {length} tokens; the model's positions end at {most}")]
    TooLong {
        /// The sample, from 0.
        sample: usize,
        /// Its length.
        length: usize,
        /// The most tokens.
        most: u64,
    },
    /// An activation that is not a number.
    #[error("{place}, sample {sample}, token {token}: an activation is not finite")]
    NotFinite {
        /// Layer and module.
        place: String,
        /// The sample, from 0.
        sample: usize,
        /// The token within it, from 0.
        token: usize,
    },
    /// Weights that could not be had.
    #[error("{tensor}: {}", failure.message)]
    Weights {
        /// The tensor.
        tensor: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// The arithmetic itself.
    #[error(transparent)]
    Compute(#[from] qhost_compute::Error),
    /// The file of hidden states.
    #[error("cannot keep hidden states in {}: {source}", path.display())]
    States {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// More memory than there may be.
    #[error(transparent)]
    Memory(#[from] crate::stream::Refused),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoForward { .. } | Self::Compute(qhost_compute::Error::Device(_)) => ExitCode::Unsupported,
            Self::BadKey { .. } | Self::MissingModule { .. } | Self::UnknownToken { .. } | Self::NotFinite { .. } => {
                ExitCode::Corrupt
            }
            Self::TooLong { .. } => ExitCode::Usage,
            Self::Weights { failure, .. } => ExitCode::of_failure(failure.kind),
            Self::Compute(qhost_compute::Error::NotPositiveDefinite { .. }) => ExitCode::Corrupt,
            Self::Compute(_) => ExitCode::Internal,
            Self::States { .. } | Self::Memory(_) => ExitCode::Resources,
            Self::Interrupted => ExitCode::Interrupted,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoForward { .. } => {
                Some("formats and levels that need no activations work for it, such as plain rounding".into())
            }
            Self::UnknownToken { .. } => Some("the dataset was made with another tokenizer".into()),
            Self::TooLong { .. } => Some("use shorter samples (--seq-len, or --ctx)".into()),
            Self::NotFinite { .. } => Some(
                "the checkpoint's weights overflow in this place; was it damaged or trained in another precision?"
                    .into(),
            ),
            Self::Compute(qhost_compute::Error::Device(_)) => Some("use --device cpu".into()),
            Self::States { .. } => Some("free some disk space, or allow more memory (--max-memory)".into()),
            Self::Memory(_) => Some("raise --max-memory, or use fewer or shorter samples".into()),
            Self::Weights { failure, .. } => (!failure.hint.is_empty()).then(|| failure.hint.to_string()),
            _ => None,
        }
    }
}
