//! Why a model was not measured.

use crate::{
    calibrate, dataset,
    exit_code::{ExitCode, Fault},
    quantised, run,
};

/// A model that cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be opened, or not be fetched.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// The file is no source of weights.
    #[error(transparent)]
    Quantised(#[from] quantised::Error),
    /// The text cannot be had, or not be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The model cannot be run.
    #[error(transparent)]
    Calibrate(#[from] calibrate::Error),
    /// A text without a single window.
    #[error("{data} has {tokens} tokens, and fills no window of {ctx}")]
    TooShort {
        /// The text.
        data: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens of a window.
        ctx: usize,
    },
    /// A text or rows without a token that is predicted.
    #[error("{data} has no prediction to score")]
    NothingToScore {
        /// The data.
        data: String,
    },
}

impl Error {
    fn inner(&self) -> Option<&dyn Fault> {
        match self {
            Self::Run(error) => Some(error),
            Self::Quantised(error) => Some(error),
            Self::Dataset(error) => Some(error),
            Self::Calibrate(error) => Some(error),
            Self::TooShort { .. } | Self::NothingToScore { .. } => None,
        }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::TooShort { .. } => ExitCode::Usage,
            Self::NothingToScore { .. } => ExitCode::Corrupt,
            _ => self.inner().map_or(ExitCode::Internal, Fault::exit_code),
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        self.inner().and_then(Fault::details)
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooShort { .. } => Some("use a longer text, or smaller windows (--ctx)".into()),
            Self::NothingToScore { .. } => Some("use a text, or rows of at least two tokens".into()),
            _ => self.inner().and_then(Fault::hint),
        }
    }
}
