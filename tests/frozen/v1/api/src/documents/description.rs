//! What a plugin's formats can do, in more detail than the manifest tells.

use serde::{Deserialize, Serialize};

use super::{Document, EncodingPattern, Transcoding};

/// A plugin's answer to `describe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Description {
    /// Always [`Description::SCHEMA`].
    pub schema: String,
    /// One entry per format of the manifest.
    pub formats: Vec<FormatDescription>,
    /// What the plugin makes of encodings on the way between others, with its service `transcode/1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transcodes: Vec<Transcoding>,
}

impl Description {
    /// Describes these formats.
    #[must_use]
    pub fn new(formats: Vec<FormatDescription>) -> Self {
        Self { schema: Self::SCHEMA.into(), formats, transcodes: Vec::new() }
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
    /// The keys of [`Options`](super::Options) that have a meaning for it, apart from `level` and `plugin`. Where one
    /// run makes several formats, each gets those alone; of a format that does not tell, all are passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_options: Option<Vec<String>>,
    /// Encodings that it takes beside floats when its files are made of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<EncodingPattern>,
    /// Encodings that it gives beside floats when its files are a source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gives: Vec<EncodingPattern>,
    /// Whether it does without floats: then a tensor that no offer is for cannot be converted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_no_floats: bool,
}

impl FormatDescription {
    /// A format with its levels, which has no default level and no options.
    pub fn new(id: impl Into<String>, levels: Vec<LevelDescription>) -> Self {
        Self {
            id: id.into(),
            levels,
            default_level: None,
            options: Vec::new(),
            common_options: None,
            takes: Vec::new(),
            gives: Vec::new(),
            takes_no_floats: false,
        }
    }

    /// Tells which keys of [`Options`](super::Options) have a meaning for it, apart from `level` and `plugin`.
    #[must_use]
    pub fn common_options<const N: usize>(mut self, keys: [&str; N]) -> Self {
        self.common_options = Some(keys.map(str::to_owned).to_vec());
        self
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
