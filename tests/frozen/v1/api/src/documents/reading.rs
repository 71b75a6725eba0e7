//! What is in files that exist: the documents of the services `reader/1` and `verify/1`.
//!
//! They tell of names, encodings and byte ranges; they hold no weights and no paths.

use serde::{Deserialize, Serialize};

use super::{Document, Role, SourceFile};

/// The request of `recognise` and `open` of `reader/1`, and of `check` of `verify/1`; the files themselves
/// are the operands, in the same order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FilesRequest {
    /// Names and lengths. Where an output is one file, it is the only one; where it is split, these are
    /// the parts that are there, in order.
    pub files: Vec<SourceFile>,
    /// How many elements of a list among the metadata are wanted at most; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_elements: Option<u64>,
    /// The program that is to load the files, for `check`: one of the loaders that the format declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
}

impl FilesRequest {
    /// A request about these files, which wants all there is.
    #[must_use]
    pub fn new(files: Vec<SourceFile>) -> Self {
        Self { files, most_elements: None, loader: None }
    }
}

/// The answer of `recognise`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recognition {
    /// Which of the plugin's formats the files are in; none if they are in none.
    pub format: Option<String>,
}

impl Recognition {
    /// Files of this format, or of none of the plugin's.
    #[must_use]
    pub fn new(format: Option<String>) -> Self {
        Self { format }
    }
}

/// The answer of `open`: everything but the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reading {
    /// Always [`Reading::SCHEMA`].
    pub schema: String,
    /// The format's id.
    pub format: String,
    /// The version of the container, where it has one.
    #[serde(default)]
    pub version: Option<String>,
    /// The model's architecture, in the files' own word.
    #[serde(default)]
    pub architecture: Option<String>,
    /// The level that the files say they have.
    #[serde(default)]
    pub level: Option<String>,
    /// What the data's offsets are multiples of.
    #[serde(default)]
    pub alignment: Option<u64>,
    /// What the files say beside the tensors, in their order.
    #[serde(default)]
    pub metadata: Vec<MetadataEntry>,
    /// The tensors, in the order of the files.
    pub tensors: Vec<StoredTensor>,
    /// What the user should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Reading {
    /// Files of a format with these tensors.
    #[must_use]
    pub fn new(format: impl Into<String>, tensors: Vec<StoredTensor>) -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            format: format.into(),
            version: None,
            architecture: None,
            level: None,
            alignment: None,
            metadata: Vec::new(),
            tensors,
            warnings: Vec::new(),
        }
    }

    /// The number of elements of all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(StoredTensor::elements).fold(0, u64::saturating_add)
    }

    /// The number of weights of all tensors.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(StoredTensor::weights).fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).fold(0, u64::saturating_add)
    }
}

impl Document for Reading {
    const SCHEMA: &'static str = "qhost.reading/1";
}

/// One thing that files say beside their tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetadataEntry {
    /// The key.
    pub key: String,
    /// The value's type, in the format's own word.
    pub kind: String,
    /// The value. A number that JSON cannot hold is a text (`NaN`, `inf`). Of a list that was cut short,
    /// the first elements.
    pub value: serde_json::Value,
    /// For a list, the number of elements that it has in the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

impl MetadataEntry {
    /// A key with a single value.
    pub fn new(key: impl Into<String>, kind: impl Into<String>, value: serde_json::Value) -> Self {
        Self { key: key.into(), kind: kind.into(), value, length: None }
    }

    /// A key with a list of `length` elements, of which `first` are told.
    pub fn list(key: impl Into<String>, kind: impl Into<String>, first: Vec<serde_json::Value>, length: u64) -> Self {
        Self { key: key.into(), kind: kind.into(), value: first.into(), length: Some(length) }
    }
}

/// A tensor in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredTensor {
    /// Its name in the files.
    pub name: String,
    /// How it is stored, in the format's own word.
    pub encoding: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Index of the file.
    pub file: u32,
    /// First byte in that file.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// How many weights of the model it holds, where that is not the number of its elements: several may be packed
    /// into one, and scales hold none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<u64>,
    /// What it is for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The decoder layer that it belongs to, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
}

impl StoredTensor {
    /// A tensor whose place is yet to be filled in.
    pub fn new(name: impl Into<String>, encoding: impl Into<String>, shape: Vec<u64>) -> Self {
        Self {
            name: name.into(),
            encoding: encoding.into(),
            shape,
            file: 0,
            offset: 0,
            bytes: 0,
            weights: None,
            role: None,
            layer: None,
        }
    }

    /// The same at a place in a file.
    #[must_use]
    pub fn at(mut self, file: u32, offset: u64, bytes: u64) -> Self {
        (self.file, self.offset, self.bytes) = (file, offset, bytes);
        self
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dim| product.saturating_mul(*dim))
    }

    /// The number of weights of the model that it holds.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.weights.unwrap_or_else(|| self.elements())
    }

    /// The number of rows: all dimensions but the last.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().fold(1, |rows, dim| rows.saturating_mul(*dim)))
    }
}

/// The request of `numbers` of `verify/1`: whole rows of a tensor, which are the operand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NumbersRequest {
    /// Which of the plugin's formats.
    pub format: String,
    /// How the rows are stored.
    pub encoding: String,
}

impl NumbersRequest {
    /// A request about rows of this encoding.
    pub fn new(format: impl Into<String>, encoding: impl Into<String>) -> Self {
        Self { format: format.into(), encoding: encoding.into() }
    }
}

/// The answer of `numbers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Numbers {
    /// Every scale and every value is finite, or cannot be anything else.
    Finite,
    /// One is not: the index of its element among those of the operand, or of the first of its block.
    NotFinite(u64),
    /// The plugin does not know how numbers of this encoding are stored.
    Unknown,
}

/// The request of `read` of `existing/1`: bytes of a file that the output's `data` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExistingRequest {
    /// Index of the file.
    pub file: u32,
    /// First byte.
    pub offset: u64,
}

impl ExistingRequest {
    /// Bytes of a file from an offset on.
    #[must_use]
    pub fn new(file: u32, offset: u64) -> Self {
        Self { file, offset }
    }
}
