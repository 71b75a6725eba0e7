//! What a plugin's formats can do, in more detail than the manifest tells.

use serde::{Deserialize, Serialize};

use super::Document;

/// A plugin's answer to `describe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Description {
    /// Always [`Description::SCHEMA`].
    pub schema: String,
    /// One entry per format of the manifest.
    pub formats: Vec<FormatDescription>,
}

impl Description {
    /// Describes these formats.
    #[must_use]
    pub fn new(formats: Vec<FormatDescription>) -> Self {
        Self { schema: Self::SCHEMA.into(), formats }
    }
}

impl Document for Description {
    const SCHEMA: &'static str = "qhost.description/1";
}

/// One format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FormatDescription {
    /// The format's id in the manifest.
    pub id: String,
    /// The levels, in the order of the manifest.
    pub levels: Vec<LevelDescription>,
    /// The level taken when the user names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_level: Option<String>,
    /// The keys of `--plugin-option` that it understands.
    #[serde(default)]
    pub options: Vec<OptionDescription>,
    /// Encodings that it can write from.
    #[serde(default)]
    pub takes: Vec<Encoding>,
    /// Encodings that it can read as, for use as a source.
    #[serde(default)]
    pub gives: Vec<Encoding>,
}

impl FormatDescription {
    /// A format with its levels, which has no default level and no options.
    pub fn new(id: impl Into<String>, levels: Vec<LevelDescription>) -> Self {
        Self { id: id.into(), levels, default_level: None, options: Vec::new(), takes: Vec::new(), gives: Vec::new() }
    }
}

/// One level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LevelDescription {
    /// The name for `--level`.
    pub id: String,
    /// One line.
    pub summary: String,
    /// Bits per weight of the level's own encoding, before a mixture or a fallback changes it.
    pub bits_per_weight: f64,
}

impl LevelDescription {
    /// A level, one line about it, and its bits per weight.
    pub fn new(id: impl Into<String>, summary: impl Into<String>, bits_per_weight: f64) -> Self {
        Self { id: id.into(), summary: summary.into(), bits_per_weight }
    }
}

/// One `--plugin-option`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OptionDescription {
    /// The key.
    pub key: String,
    /// One line: what it does and which values it takes.
    pub summary: String,
}

impl OptionDescription {
    /// A key, and one line about it.
    pub fn new(key: impl Into<String>, summary: impl Into<String>) -> Self {
        Self { key: key.into(), summary: summary.into() }
    }
}

/// How numbers are stored, apart from the file around them, for the negotiation of conversions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Encoding {
    /// `float`, `grouped-affine`, or a format's own `format/name`.
    pub kind: String,
    /// Constraints (`bits`, `group_size`, `symmetric`, …), specified by the kind; empty means any.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub constraints: serde_json::Map<String, serde_json::Value>,
}

impl Encoding {
    /// A kind of encoding, without constraints.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), constraints: serde_json::Map::new() }
    }
}
