//! Files that exist, as a source of weights: the documents of `source` of `reader/1`, and of `decode/1`.
//!
//! They tell what a checkpoint's config and small files would be; they hold no weights and no paths.

use serde::{Deserialize, Serialize};

use super::{Document, Role};

/// The answer of `source`: what the files tell of the checkpoint that they were made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// Always [`Origin::SCHEMA`].
    pub schema: String,
    /// A name for people, where the files have one.
    #[serde(default)]
    pub name: Option<String>,
    /// The checkpoint's `config.json`, as far as the files tell.
    pub config: serde_json::Value,
    /// The small files of the checkpoint that the files stand for, such as `tokenizer.json`.
    #[serde(default)]
    pub companions: Vec<TextFile>,
    /// Which parameters the files have, in any order: by them the host knows those that only some checkpoints of
    /// a family have.
    #[serde(default)]
    pub present: Vec<PlacedRole>,
    /// Every parameter by the checkpoint's own name, where the files keep these names: then the host's family tables
    /// give roles to them as to those of a checkpoint, and `present` is not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<NamedParameter>,
    /// What the user should know, such as what the files do not tell.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Origin {
    /// Files that come from a checkpoint with this config.
    #[must_use]
    pub fn new(config: serde_json::Value) -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            name: None,
            config,
            companions: Vec::new(),
            present: Vec::new(),
            parameters: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Document for Origin {
    const SCHEMA: &'static str = "qhost.origin/1";
}

/// A small file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextFile {
    /// Its name, relative to the model.
    pub name: String,
    /// All of it.
    pub text: String,
}

impl TextFile {
    /// A file of this name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// A parameter under the checkpoint's own name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NamedParameter {
    /// The name.
    pub name: String,
    /// The shape in which its rows are given, outermost dimension first.
    pub shape: Vec<u64>,
    /// Whether its rows are a linear's outputs even where the family's checkpoints store them as columns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rows_are_outputs: bool,
    /// The tensor of the files that holds it, where that has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_in: Option<String>,
    /// Whether it changes nothing (a bias of zeros), so that a family without it loses nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub does_nothing: bool,
}

impl NamedParameter {
    /// A parameter as checkpoints of the family store it.
    pub fn new(name: impl Into<String>, shape: Vec<u64>) -> Self {
        Self { name: name.into(), shape, rows_are_outputs: false, stored_in: None, does_nothing: false }
    }

    /// The weight of a linear, with its outputs as rows.
    pub fn linear(name: impl Into<String>, outputs: u64, inputs: u64) -> Self {
        Self { rows_are_outputs: true, ..Self::new(name, vec![outputs, inputs]) }
    }

    /// The same, held by the tensor of this name.
    #[must_use]
    pub fn stored_in(mut self, tensor: impl Into<String>) -> Self {
        self.stored_in = Some(tensor.into());
        self
    }
}

/// A parameter of a model: its role, and the decoder layer that it belongs to, if it is in one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlacedRole {
    /// What it is for.
    pub role: Role,
    /// The layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
}

impl PlacedRole {
    /// A parameter of a layer, or of none.
    #[must_use]
    pub fn new(role: Role, layer: Option<u32>) -> Self {
        Self { role, layer }
    }
}

/// The request of `rows` of `decode/1`: rows of a tensor of the model; the files are the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RowsRequest {
    /// The tensor's id in the model of the job.
    pub tensor: u32,
    /// The first row.
    pub first_row: u64,
}

impl RowsRequest {
    /// Rows of a tensor from one on; how many is the output's to say.
    #[must_use]
    pub fn new(tensor: u32, first_row: u64) -> Self {
        Self { tensor, first_row }
    }
}
