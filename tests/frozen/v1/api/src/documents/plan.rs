//! What a plugin will write, byte for byte, before it has read a weight.
//!
//! A plan is pure data: the host checks it, reserves the files, and holds the plugin to it. It
//! knows no paths; file names are relative to the output.
//!
//! Every type is made by its `new` (or by what it is: `Output::file`), and its optional fields are set
//! afterwards, so that later versions can have more of them.

use serde::{Deserialize, Serialize};

use super::{Document, Encoding, Fidelity, StatisticsNeed};

/// The plan of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Always [`Plan::SCHEMA`].
    pub schema: String,
    /// The format.
    pub format: String,
    /// The level, resolved to its canonical name.
    pub level: String,
    /// One file or a folder, and what its name ends in.
    pub output: Output,
    /// The files with weights, in order; for a single-file output exactly one.
    pub files: Vec<PlannedFile>,
    /// What fills the files. A segment's id is its index. Bytes that no segment covers are zero.
    pub segments: Vec<Segment>,
    /// The units to run, in this order. Every tensor segment belongs to one of them.
    pub units: Vec<PlannedUnit>,
    /// Whether units depend on each other.
    #[serde(default)]
    pub order: UnitOrder,
    /// Small files beside the weights, for a folder output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<Companion>,
    /// Source tensors that the output does not hold, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<UnusedTensor>,
    /// What the user should know before the work starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The length that all files together would have, had every tensor the encoding that the level wants
    /// for it: what the level promises for this model. Absent means that nothing was promised that is not
    /// kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_bytes: Option<u64>,
    /// How the output is used, in Markdown, for the model card. `{output}` stands for the output's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// Files beside a single-file output, by what their names have after the model's: the plugin makes each at the
    /// end, of what its units saved, through the service `beside/1` of the job. They are no part of the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
    /// The library that loads the output, under the name by which model hubs know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// Set where the plan is provisional because what is written depends on the weights: then the units of this job
    /// write nothing; they measure, and save what they find as texts ([`Unit::save`](crate::abi::Unit::save)). The
    /// host opens the job once more with these texts ([`OpenRequest::surveyed`](super::OpenRequest::surveyed)), and
    /// carries out that plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survey: Option<Survey>,
}

impl Plan {
    /// A plan without files, segments and units, which are to be filled in.
    ///
    /// Its units depend on each other until `order` says otherwise.
    pub fn new(format: impl Into<String>, level: impl Into<String>, output: Output) -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            format: format.into(),
            level: level.into(),
            output,
            files: Vec::new(),
            segments: Vec::new(),
            units: Vec::new(),
            order: UnitOrder::default(),
            companions: Vec::new(),
            unused: Vec::new(),
            warnings: Vec::new(),
            level_bytes: None,
            usage: None,
            beside: Vec::new(),
            library: None,
            survey: None,
        }
    }
}

impl Document for Plan {
    const SCHEMA: &'static str = "qhost.plan/1";
}

/// What is known of the plan that comes after a provisional one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Survey {
    /// The most bytes that its files will have together, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl Survey {
    /// A plan follows whose files have at most so many bytes together.
    #[must_use]
    pub fn within(limit: u64) -> Self {
        Self { limit: Some(limit) }
    }
}

/// The shape of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Output {
    /// One file or a folder.
    pub kind: OutputKind,
    /// Appended to the model's name, such as `-4bit-g128` for a folder or `-X.ext` for a file.
    pub suffix: String,
    /// Of a folder output the file that programs are given, where that is not the folder itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
}

impl Output {
    /// One file, named by the model's name and `suffix` (`-4bit.ext`).
    pub fn file(suffix: impl Into<String>) -> Self {
        Self { kind: OutputKind::File, suffix: suffix.into(), entry: None }
    }

    /// A folder, named by the model's name and `suffix` (`-4bit-g128`).
    pub fn folder(suffix: impl Into<String>) -> Self {
        Self { kind: OutputKind::Folder, suffix: suffix.into(), entry: None }
    }

    /// A folder of which programs are given this file.
    #[must_use]
    pub fn entered_by(self, file: impl Into<String>) -> Self {
        Self { entry: Some(file.into()), ..self }
    }
}

/// One file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutputKind {
    /// The output is one file, named by the model's name and the suffix.
    File,
    /// The output is a folder of files.
    Folder,
}

/// A file that segments fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedFile {
    /// The name within a folder output; empty for a single-file output.
    pub name: String,
    /// The exact length.
    pub bytes: u64,
}

impl PlannedFile {
    /// The only file of a single-file output.
    #[must_use]
    pub fn single(bytes: u64) -> Self {
        Self { name: String::new(), bytes }
    }

    /// A file of a folder output.
    pub fn new(name: impl Into<String>, bytes: u64) -> Self {
        Self { name: name.into(), bytes }
    }
}

/// A contiguous range of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Segment {
    /// Index of the file.
    pub file: u32,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// What it holds.
    #[serde(flatten)]
    pub content: SegmentContent,
}

impl Segment {
    /// Bytes that are known at planning time.
    pub fn constant(file: u32, offset: u64, bytes: u64, label: impl Into<String>) -> Self {
        Self { file, offset, bytes, content: SegmentContent::Constant { label: label.into() } }
    }

    /// A tensor.
    #[must_use]
    pub fn tensor(file: u32, offset: u64, bytes: u64, tensor: TensorSegment) -> Self {
        Self { file, offset, bytes, content: SegmentContent::Tensor(tensor) }
    }
}

/// What a segment holds.
#[expect(clippy::large_enum_variant, reason = "nearly all segments are tensors")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SegmentContent {
    /// Bytes that are known at planning time, from [`Job::constant`](crate::abi::Job::constant).
    #[non_exhaustive]
    Constant {
        /// What it is, for messages.
        label: String,
    },
    /// A tensor.
    Tensor(TensorSegment),
}

/// A tensor in the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TensorSegment {
    /// The name in the output format.
    pub name: String,
    /// The unit that makes it.
    pub unit: u32,
    /// The source tensors that are read for it.
    pub sources: Vec<u32>,
    /// How it is stored, in the format's own word (`Q4_K`).
    pub encoding: String,
    /// The number of weights.
    pub elements: u64,
    /// Why the encoding is not the level's own choice (a row length that does not divide, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// The encoding that the level wants for it, where there is a `fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<String>,
    /// What a weight of it costs, in nanoseconds on one core of the reference machine, from reading it to
    /// checking what was written; the host scales it to the machine at hand. Absent means that it is not
    /// known.
    ///
    /// The reference machine is a virtual core of a server of 2023 (Intel Sapphire Rapids).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// In which of the encodings that are offered ([`OpenRequest::conversion`](super::OpenRequest::conversion)) all its
    /// sources are taken, through the service `planes/1` of the unit. Absent means floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<Encoding>,
    /// What making it does to the numbers that are taken. Absent means that it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// The relative error of its weights that is to be expected where they are quantised: the root of the mean square
    /// of the error, by that of the weights. Absent means that it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_error: Option<f64>,
}

impl TensorSegment {
    /// A tensor of `elements` weights that `unit` makes from the source tensors `sources`.
    pub fn new(
        name: impl Into<String>,
        unit: u32,
        sources: Vec<u32>,
        encoding: impl Into<String>,
        elements: u64,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            sources,
            encoding: encoding.into(),
            elements,
            fallback: None,
            instead_of: None,
            cost: None,
            takes: None,
            fidelity: None,
            expected_error: None,
        }
    }
}

/// A unit to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedUnit {
    /// The unit's id in the model.
    pub unit: u32,
    /// Working memory that it takes whatever the number of threads, in bytes.
    #[serde(default)]
    pub memory: u64,
    /// Working memory that it takes for every thread of a parallel loop, in bytes.
    #[serde(default)]
    pub memory_per_thread: u64,
    /// What it needs to know of the activations; the host computes that and nothing else, and lends it through
    /// the service `statistics/1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statistics: Vec<StatisticsNeed>,
    /// Whether it asks for one group after the other and substitutes weights in between, through the service
    /// `replay/1`. Otherwise all statistics are of the original weights, and are gathered at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replays: bool,
}

impl PlannedUnit {
    /// A unit of the model, which takes no working memory worth planning.
    #[must_use]
    pub fn new(unit: u32) -> Self {
        Self { unit, memory: 0, memory_per_thread: 0, statistics: Vec::new(), replays: false }
    }

    /// The working memory that it takes with so many threads, in bytes.
    #[must_use]
    pub fn working_memory(&self, threads: u32) -> u64 {
        self.memory.saturating_add(self.memory_per_thread.saturating_mul(u64::from(threads)))
    }
}

/// Whether units depend on each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitOrder {
    /// Each unit can be made alone, on any machine.
    Independent,
    /// A unit needs those before it.
    #[default]
    Sequential,
}

/// A small file beside the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Companion {
    /// Its name in the output folder.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub content: CompanionContent,
}

impl Companion {
    /// A copy of the model's companion `source`.
    pub fn copy(name: impl Into<String>, source: impl Into<String>) -> Self {
        Self { name: name.into(), content: CompanionContent::Copy(source.into()) }
    }

    /// A file with this text.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), content: CompanionContent::Text(text.into()) }
    }
}

/// Where a companion's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CompanionContent {
    /// A copy of the model's companion of this name.
    Copy(String),
    /// This text.
    Text(String),
}

/// A source tensor that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnusedTensor {
    /// The tensor's id.
    pub tensor: u32,
    /// Why the output does not need it.
    pub reason: String,
}

impl UnusedTensor {
    /// A source tensor, and why the output does not need it.
    pub fn new(tensor: u32, reason: impl Into<String>) -> Self {
        Self { tensor, reason: reason.into() }
    }
}
