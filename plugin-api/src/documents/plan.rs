//! What a plugin will write, byte for byte, before it has read a weight.
//!
//! A plan is pure data: the host checks it, reserves the files, and holds the plugin to it. It
//! knows no paths; file names are relative to the output.

use serde::{Deserialize, Serialize};

use super::Document;

/// The plan of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

impl Document for Plan {
    const SCHEMA: &'static str = "qhost.plan/1";
}

/// The shape of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// One file or a folder.
    pub kind: OutputKind,
    /// Appended to the model's name, such as `-4bit-g128` for a folder or `-X.ext` for a file.
    pub suffix: String,
}

/// One file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The output is one file, named by the model's name and the suffix.
    File,
    /// The output is a folder of files.
    Folder,
}

/// A file that segments fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// The name within a folder output; empty for a single-file output.
    pub name: String,
    /// The exact length.
    pub bytes: u64,
}

/// A contiguous range of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "snake_case")]
pub enum SegmentContent {
    /// Bytes that are known at planning time, from [`Job::constant`](crate::abi::Job::constant).
    Constant {
        /// What it is, for messages.
        label: String,
    },
    /// A tensor.
    Tensor(TensorSegment),
}

/// A tensor in the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// A unit to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedUnit {
    /// The unit's id in the model.
    pub unit: u32,
    /// Working memory that the plugin will ask for while it runs, in bytes.
    pub memory: u64,
}

/// Whether units depend on each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitOrder {
    /// Each unit can be made alone, on any machine.
    Independent,
    /// A unit needs those before it.
    #[default]
    Sequential,
}

/// A small file beside the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Companion {
    /// Its name in the output folder.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub content: CompanionContent,
}

/// Where a companion's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompanionContent {
    /// A copy of the model's companion of this name.
    Copy(String),
    /// This text.
    Text(String),
}

/// A source tensor that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedTensor {
    /// The tensor's id.
    pub tensor: u32,
    /// Why the output does not need it.
    pub reason: String,
}
