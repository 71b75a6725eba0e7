//! What the host asks a plugin to plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Document, Model};

/// The host, as far as a plugin may depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Always [`HostFacts::SCHEMA`].
    pub schema: String,
    /// The host's version, for metadata such as "quantised by".
    pub version: String,
    /// The plugin API that the host speaks.
    pub api: String,
    /// Messages above this [`LogLevel`](crate::abi::LogLevel) are not wanted.
    pub log_level: u32,
}

impl Document for HostFacts {
    const SCHEMA: &'static str = "qhost.host/1";
}

/// A request to plan one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Always [`OpenRequest::SCHEMA`].
    pub schema: String,
    /// Which of the plugin's formats.
    pub format: String,
    /// What the user asked for.
    pub options: Options,
    /// The source.
    pub model: Model,
    /// Threads that `parallel_for` will use, for memory estimates; output bytes never depend on it.
    pub threads: u32,
}

impl Document for OpenRequest {
    const SCHEMA: &'static str = "qhost.request/1";
}

/// What the user asked for. A plugin refuses an option that it has no meaning for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--level`.
    pub level: Option<String>,
    /// `--bits`.
    pub bits: Option<u32>,
    /// `--group-size`; −1 is the whole row.
    pub group_size: Option<i64>,
    /// `--sym` / `--asym`.
    pub symmetric: Option<bool>,
    /// `--desc-act` / `--no-desc-act`.
    pub act_order: Option<bool>,
    /// `--plugin-option KEY=VALUE`.
    pub plugin: BTreeMap<String, String>,
}

impl Options {
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
        flags
    }
}
