//! Why there is no way from a source to a target.

use qhost_plugin_api::documents::{Encoding, FormatDescription};

use crate::exit_code::{ExitCode, Fault};

/// There is no way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target takes nothing of what can be made of a tensor.
    #[error("there is no way to {format} for {tensor}, which can be had as {given}")]
    NoWay {
        /// The target's id.
        format: String,
        /// The tensor.
        tensor: String,
        /// What the source gives.
        given: String,
        /// What the target takes.
        takes: String,
    },
    /// The target's plan takes what was not offered.
    #[error("the plugin broke its contract: it takes {tensor} as {what}, which was not offered")]
    NotOffered {
        /// The tensor of the output.
        tensor: String,
        /// The encoding.
        what: String,
    },
}

impl Error {
    pub(super) fn no_way(tensor: &str, given: &[Encoding], target: &FormatDescription) -> Self {
        let list = |texts: Vec<String>| match texts.split_last() {
            None => "floats alone".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, before)) => format!("{} or {last}", before.join(", ")),
        };
        Self::NoWay {
            format: target.id.clone(),
            tensor: tensor.to_owned(),
            given: list(given.iter().map(ToString::to_string).collect()),
            takes: list(target.takes.iter().map(ToString::to_string).collect()),
        }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoWay { .. } => ExitCode::Unsupported,
            Self::NotOffered { .. } => ExitCode::Plugin,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoWay { takes, .. } => {
                format!(
                    "a plugin that makes {takes} of it would make one; `qhost plugins list` shows those that are here"
                )
            }
            Self::NotOffered { .. } => "this is a defect of the plugin: report it to its authors".into(),
        })
    }
}
