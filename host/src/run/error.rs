//! Why a run ended without an output.

use std::{io, path::PathBuf};

use crate::{
    calibrate, convert, dataset,
    exit_code::{ExitCode, Fault},
    hub, model, plan, plugin, quantised, source, write,
};

/// A run that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The model cannot be fetched.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// A hub that was asked for want of a local folder cannot be asked.
    #[error("{source}")]
    NotAsked {
        /// As given.
        name: String,
        /// Why.
        source: hub::Error,
    },
    /// What was said to be the name of a model on a hub is none.
    #[error("`{name}` is not the name of a model on a hub")]
    BadHubName {
        /// As given.
        name: String,
    },
    /// A revision was asked for of what has none.
    #[error("{} is a local folder, or the path of one, and has no revisions", path.display())]
    RevisionOfFolder {
        /// As given.
        path: PathBuf,
    },
    /// Quantised files cannot be read.
    #[error(transparent)]
    Quantised(#[from] quantised::Error),
    /// There is no way from the source to the target.
    #[error(transparent)]
    Convert(#[from] convert::Error),
    /// What is to be converted is not quantised.
    #[error("{} is a checkpoint of floats, and there is nothing to convert", path.display())]
    NotQuantised {
        /// As given.
        path: PathBuf,
    },
    /// What is to be quantised is a file.
    #[error("{} is a file, and no folder with a checkpoint", path.display())]
    IsFile {
        /// As given.
        path: PathBuf,
    },
    /// What is to be quantised, or planned, is quantised files on a hub.
    #[error("`{name}` on the hub is quantised already")]
    QuantisedOnHub {
        /// As given.
        name: String,
    },
    /// The headers of weights that are to be fetched cannot be put aside.
    #[error("cannot write headers of weights into the folder for temporary files: {source}")]
    Outline {
        /// The system's words.
        source: io::Error,
    },
    /// The checkpoint cannot be understood.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The plugin is missing or failed.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The plan is refused.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// The model cannot be run.
    #[error(transparent)]
    Calibrate(#[from] calibrate::Error),
    /// The data for the calibration cannot be had.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// Data for a calibration was named, and nothing is calibrated.
    #[error("{format} at the level {level} takes nothing from activations, so there is nothing to calibrate")]
    CalibrationUnused {
        /// The format.
        format: String,
        /// The level.
        level: String,
    },
    /// One of several formats cannot be made.
    #[error("{run}: {source}")]
    OfOne {
        /// The format and its level.
        run: String,
        /// Why.
        source: Box<Error>,
    },
    /// Something was asked for that has a meaning for none of several formats.
    #[error("none of the formats takes {option}")]
    NobodyTakes {
        /// As the user writes it.
        option: String,
    },
    /// Two of several formats would be the same file or folder.
    #[error("two of the formats would be written to {}", path.display())]
    Twice {
        /// The output.
        path: PathBuf,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] write::Error),
    /// The journal cannot be written.
    #[error("cannot write the journal {path}: {source}")]
    Journal {
        /// The file.
        path: String,
        /// The system's words.
        source: io::Error,
    },
    /// A file of the model has gone or changed while it was used.
    #[error("the model's files have changed while they were read")]
    SourceChanged,
    /// A file of the model cannot be read.
    #[error("cannot read the model: {source}")]
    SourceUnreadable {
        /// The system's words.
        source: io::Error,
    },
    /// A file that an option names cannot be read.
    #[error("{flag}: cannot read {}: {source}", path.display())]
    OptionFile {
        /// The option.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The plugin did not write what it planned.
    #[error("the plugin `{plugin}` did not write all of {tensor}")]
    Incomplete {
        /// The plugin.
        plugin: String,
        /// The tensor of the output.
        tensor: String,
    },
    /// The plugin's bytes for a constant segment do not fit the plan.
    #[error("the plugin `{plugin}` gives {actual} bytes for {label}, and planned {planned}")]
    WrongConstant {
        /// The plugin.
        plugin: String,
        /// The segment.
        label: String,
        /// Bytes given.
        actual: u64,
        /// Bytes planned.
        planned: u64,
    },
    /// A check of the finished files failed.
    #[error("the finished output failed its check: {detail}")]
    CheckFailed {
        /// What was found.
        detail: String,
    },
    /// The user interrupted the run.
    #[error("interrupted; finished work is kept in {checkpoint}")]
    Interrupted {
        /// The work folder.
        checkpoint: String,
    },
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// For `map_err`.
    pub(super) fn outline(source: io::Error) -> Self {
        Self::Outline { source }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Source(error) => error.exit_code(),
            Self::Hub(error) | Self::NotAsked { source: error, .. } => error.exit_code(),
            Self::BadHubName { .. }
            | Self::RevisionOfFolder { .. }
            | Self::CalibrationUnused { .. }
            | Self::NobodyTakes { .. }
            | Self::Twice { .. }
            | Self::NotQuantised { .. } => ExitCode::Usage,
            Self::OfOne { source, .. } => source.exit_code(),
            Self::Quantised(error) => error.exit_code(),
            Self::Convert(error) => error.exit_code(),
            Self::QuantisedOnHub { .. } | Self::IsFile { .. } => ExitCode::Unsupported,
            Self::Model(error) => error.exit_code(),
            Self::Plugin(error) => error.exit_code(),
            Self::Plan(error) => error.exit_code(),
            Self::Calibrate(error) => error.exit_code(),
            Self::Dataset(error) => error.exit_code(),
            Self::Write(error) => error.exit_code(),
            Self::Journal { .. } | Self::Threads { .. } | Self::Outline { .. } => ExitCode::Resources,
            Self::SourceChanged => ExitCode::Corrupt,
            Self::SourceUnreadable { .. } | Self::OptionFile { .. } => ExitCode::NotFound,
            Self::Incomplete { .. } | Self::WrongConstant { .. } => ExitCode::Plugin,
            Self::CheckFailed { .. } => ExitCode::Verification,
            Self::Interrupted { .. } => ExitCode::Interrupted,
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Plugin(error) => error.details(),
            Self::Quantised(error) => error.details(),
            Self::OfOne { source, .. } => source.details(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::Hub(error) => error.hint(),
            Self::NotAsked { name, source } => {
                let hint = source.hint().unwrap_or_default();
                Some(format!("there is no folder `{name}` here, so it is looked for on a hub; {hint}"))
            }
            Self::BadHubName { .. } => Some("give hf://org/name, or org/name".into()),
            Self::RevisionOfFolder { .. } => {
                Some("leave out --revision, or name a model on the Hub (org/name, or hf://org/name)".into())
            }
            Self::Quantised(error) => error.hint(),
            Self::Convert(error) => error.hint(),
            Self::NotQuantised { .. } => Some("`qhost quantize` makes a quantised model of it".into()),
            Self::IsFile { .. } => Some("`qhost convert` makes another format of a quantised file".into()),
            Self::QuantisedOnHub { .. } => {
                Some("`qhost convert` fetches it and makes another format of it".into())
            }
            Self::Outline { .. } => Some("choose another folder for temporary files with TMPDIR".into()),
            Self::Model(error) => error.hint(),
            Self::Plugin(error) => error.hint(),
            Self::Plan(error) => error.hint(),
            Self::Calibrate(error) => error.hint(),
            Self::Dataset(error) => error.hint(),
            Self::CalibrationUnused { .. } => Some("leave out --calibration, or ask for what uses activations".into()),
            Self::OfOne { source, .. } => source.hint(),
            Self::NobodyTakes { option } => Some(match option.strip_prefix("--plugin-option ") {
                Some(key) => format!("`qhost plugins info ID` shows what there is; ID.{key} is for one format alone"),
                None => "leave it out, or name a format that takes it".into(),
            }),
            Self::Twice { .. } => Some("give each format once, with another level each time: ID=LEVEL".into()),
            Self::Write(error) => error.hint(),
            Self::Journal { .. } => Some("free some space or choose another disk with -o".into()),
            Self::SourceChanged => {
                Some("nothing was put in place; when the files have come to rest, run the same command again".into())
            }
            Self::OptionFile { flag, .. } => Some(format!("check the path that {flag} names")),
            Self::SourceUnreadable { .. } => Some("check that the model's folder is still there".into()),
            Self::Incomplete { .. } | Self::WrongConstant { .. } => {
                Some("this is a defect of the plugin: report it to its authors; finished work is kept".into())
            }
            Self::CheckFailed { .. } => {
                Some("nothing was put in place; run again with --fresh, and if it happens again, suspect the disk or the plugin".into())
            }
            Self::Interrupted { .. } => Some("run the same command again to go on from there".into()),
            Self::Threads { .. } => Some("use fewer --threads".into()),
        }
    }
}
