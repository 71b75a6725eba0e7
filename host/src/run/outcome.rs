//! What a finished run made.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use qhost_plugin_api::documents::{Findings, Options};

use super::CalibrationRequest;
use crate::{convert::Loss, dataset::Description, plan::Estimate, source::Origin};

/// A finished output.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Where it is: the file, or the folder.
    pub path: PathBuf,
    /// Of a folder the file that programs are given, where that is not the folder itself.
    pub entry: Option<String>,
    /// The format.
    pub format: String,
    /// The level.
    pub level: String,
    /// Where the model came from.
    pub source: PathBuf,
    /// The model's name.
    pub model: String,
    /// Where the model was published, as far as its folder tells.
    pub published: Origin,
    /// The model's own card, if it has one.
    pub source_card: Option<String>,
    /// Where on a hub it was before, if it was there.
    pub origin: Option<super::Origin>,
    /// What it was converted from, if it was.
    pub converted: Option<Converted>,
    /// The model's family.
    pub architecture: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Bytes of the source's weights.
    pub source_bytes: u64,
    /// Bytes of the planned files.
    pub file_bytes: u64,
    /// Bytes that they would have without fallbacks, if there were any.
    pub level_bytes: Option<u64>,
    /// The library that loads the output, as hubs call it.
    pub library: Option<String>,
    /// How the output is used.
    pub usage: Option<String>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorOutcome>,
    /// Tensors of the model that are not in the output, each with the reason.
    pub unused: Vec<(String, String)>,
    /// What re-reading found.
    pub findings: Findings,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Of these, what is about the output, and not about this run.
    pub lasting_warnings: Vec<String>,
    /// What activations were taken from, if the format uses some.
    pub calibration: Option<Description>,
    /// What was asked for.
    pub options: Options,
    /// Which data were asked for, and how much of them.
    pub data: CalibrationRequest,
    /// Threads that it ran on.
    pub threads: u32,
    /// The ceiling of memory.
    pub max_memory: Option<u64>,
    /// What the plan said that it would take.
    pub estimate: Estimate,
    /// The card's name beside the output or in it, or none if there is to be none.
    pub card: Option<String>,
    /// What was taken over from an earlier run.
    pub resumed: Option<Resumed>,
    /// Time that this run took.
    pub duration: Duration,
    /// The plugin: id, version, digest.
    pub plugin: (String, String, String),
    /// The most working memory that was granted at once.
    pub peak_granted: u64,
}

/// What an output was converted from.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The format.
    pub format: String,
    /// The level that its files said they had.
    pub level: Option<String>,
    /// What was done to the numbers.
    pub loss: Loss,
}

/// One tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorOutcome {
    /// Its name in the output.
    pub name: String,
    /// How it is stored.
    pub encoding: String,
    /// Weights.
    pub elements: u64,
    /// Bytes.
    pub bytes: u64,
    /// Why it is not stored as the level says.
    pub fallback: Option<String>,
    /// What the level says.
    pub instead_of: Option<String>,
    /// What the plugin measured, such as its relative error.
    pub metrics: BTreeMap<String, f64>,
}

/// Work taken over from an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Units finished before.
    pub done: usize,
    /// Units in all.
    pub of: usize,
    /// The unit that this run went on with, or nothing if only the end was missing.
    pub from: Option<String>,
}

impl Outcome {
    /// What programs are given: the file, the folder, or a file in it.
    #[must_use]
    pub fn opened(&self) -> PathBuf {
        self.entry.as_ref().map_or_else(|| self.path.clone(), |entry| self.path.join(entry))
    }
}
