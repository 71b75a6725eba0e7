//! What the host asks a plugin to plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Conversion, Document, Model, Reading};

/// The host, as far as a plugin may depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostFacts {
    /// Always [`HostFacts::SCHEMA`].
    pub schema: String,
    /// The host's version, for metadata such as "quantised by".
    pub version: String,
    /// The plugin API that the host speaks.
    pub api: String,
    /// Messages above this [`LogLevel`](crate::abi::LogLevel) are not wanted.
    #[serde(default)]
    pub log_level: u32,
    /// Threads that parallel loops run on. Neither a plan nor the bytes may depend on it.
    #[serde(default = "one")]
    pub threads: u32,
    /// The names of all services that this host has, those of units and files included: what can be
    /// relied on while planning.
    #[serde(default)]
    pub services: Vec<String>,
}

fn one() -> u32 {
    1
}

impl HostFacts {
    /// A host with one thread that wants no messages and has no services.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            version: version.into(),
            api: crate::API_VERSION.into(),
            log_level: 0,
            threads: 1,
            services: Vec::new(),
        }
    }

    /// Whether the host has the service `name`, on whatever object.
    #[must_use]
    pub fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|service| service == name)
    }
}

impl Document for HostFacts {
    const SCHEMA: &'static str = "qhost.host/1";
}

/// A request to plan one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenRequest {
    /// Always [`OpenRequest::SCHEMA`].
    pub schema: String,
    /// Which of the plugin's formats.
    pub format: String,
    /// What the user asked for.
    pub options: Options,
    /// The source.
    pub model: Model,
    /// Files in the format that exist, and are to be compared with the source: then the job plans no output
    /// but the tensors of these files, where they are, and its units write nothing. They read the files
    /// through the service `existing/1` of the unit and tell metrics. Usually absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Reading>,
    /// The files of `existing` are the source of the model's weights: the job plans nothing, and has the service
    /// `decode/1`. Absent means no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decode: bool,
    /// The data that activations are taken from. The job is opened without it, and once more with it if its
    /// plan asks for statistics; apart from what it tells of the data, it then plans the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationData>,
    /// Set where the user named data to take activations from: a format that can do with them and without has to use
    /// them then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub calibrates: bool,
    /// What the units of a provisional plan have saved, by its keys: the job now plans what is written. Usually absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surveyed: Option<BTreeMap<String, String>>,
    /// Set where the model comes out of quantised files: how they store it, and what the job may take in place of
    /// floats. Absent for a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<Conversion>,
}

/// The data that activations are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CalibrationData {
    /// The file, data set or text, as the user knows it.
    pub source: String,
    /// Rows of tokens, each of which is run on its own.
    pub rows: u32,
    /// Tokens of the longest row.
    pub longest_row: u32,
}

impl CalibrationData {
    /// So many rows from somewhere.
    pub fn new(source: impl Into<String>, rows: u32, longest_row: u32) -> Self {
        Self { source: source.into(), rows, longest_row }
    }
}

impl OpenRequest {
    /// A request for one of the plugin's formats.
    pub fn new(format: impl Into<String>, options: Options, model: Model) -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            format: format.into(),
            options,
            model,
            existing: None,
            decode: false,
            calibration: None,
            calibrates: false,
            surveyed: None,
            conversion: None,
        }
    }
}

impl Document for OpenRequest {
    const SCHEMA: &'static str = "qhost.request/1";
}

/// The request of `make` of `beside/1`; the operands are what the units saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BesideRequest {
    /// Which of the files that the plan names.
    pub suffix: String,
    /// The keys of what was saved, in the order of the operands.
    pub saved: Vec<String>,
}

impl BesideRequest {
    /// A request for a file.
    pub fn new(suffix: impl Into<String>, saved: Vec<String>) -> Self {
        Self { suffix: suffix.into(), saved }
    }
}

/// What the user asked for. A plugin refuses an option that it has no meaning for.
///
/// It gets more fields: make one with `..Options::default()`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--level`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// `--bits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
    /// `--group-size`; −1 is the whole row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<i64>,
    /// `--sym` / `--asym`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    /// `--desc-act` / `--no-desc-act`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_order: Option<bool>,
    /// `--imatrix`: `auto`, or a file's name; the file is lent as [`IMATRIX_FILE`](crate::sdk::IMATRIX_FILE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<String>,
    /// `--effort`: `fast`, `default` or `best`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// `--max-size`: the most bytes of the output's files of weights together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// `--tensor-type REGEX=TYPE`, in the user's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensor_types: Vec<String>,
    /// `--plugin-option KEY=VALUE`; the values of one that is given several times are lines of one text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plugin: BTreeMap<String, String>,
    /// Options that were added to the API after this version. The SDK refuses a request with any, so
    /// that nothing that the user asked for is passed over in silence.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Options {
    /// The first option that is set and that this version of the API does not know, as the user
    /// writes it.
    #[must_use]
    pub fn unknown_flag(&self) -> Option<String> {
        let mut set = self.other.iter().filter(|(_, value)| !value.is_null());
        set.next().map(|(key, _)| format!("--{}", key.replace('_', "-")))
    }

    /// The flags that are set apart from `--level`, as the user writes them.
    ///
    /// A plugin whose formats are all levels refuses them in one line with this.
    #[must_use]
    pub fn flags_besides_level(&self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.bits.is_some() {
            flags.push("--bits");
        }
        if self.group_size.is_some() {
            flags.push("--group-size");
        }
        match self.symmetric {
            Some(true) => flags.push("--sym"),
            Some(false) => flags.push("--asym"),
            None => {}
        }
        match self.act_order {
            Some(true) => flags.push("--desc-act"),
            Some(false) => flags.push("--no-desc-act"),
            None => {}
        }
        if self.imatrix.is_some() {
            flags.push("--imatrix");
        }
        if self.effort.is_some() {
            flags.push("--effort");
        }
        if self.max_size.is_some() {
            flags.push("--max-size");
        }
        if !self.tensor_types.is_empty() {
            flags.push("--tensor-type");
        }
        flags
    }
}
