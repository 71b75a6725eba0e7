//! What a library says of itself before it is loaded.
//!
//! The JSON lies in a section of the library file (see [`crate::export_plugin`]) and is read by
//! parsing the file; it knows nothing that would need the plugin's code to run.

use serde::{Deserialize, Serialize};

use super::Document;

/// The manifest of a plugin library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`Manifest::SCHEMA`].
    pub schema: String,
    /// The plugin's identity: lower-case letters, digits and hyphens, unique among plugins.
    pub id: String,
    /// The plugin's own version, semver.
    pub version: String,
    /// The calling convention, [`ABI_TAG`](crate::abi::ABI_TAG) for this crate.
    pub abi: String,
    /// The range of plugin API versions that it can work with, as a semver requirement (`^1.0`).
    pub api: String,
    /// One line for lists.
    pub summary: String,
    /// SPDX licence expression, or empty.
    #[serde(default)]
    pub license: String,
    /// Where to learn more, or empty.
    #[serde(default)]
    pub homepage: String,
    /// The formats it brings.
    pub formats: Vec<ManifestFormat>,
}

/// One format of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFormat {
    /// What users give to `--format`: lower-case letters, digits and hyphens.
    pub id: String,
    /// One line for lists.
    pub summary: String,
    /// The named levels for `--level`, in the order in which to show them.
    #[serde(default)]
    pub levels: Vec<String>,
}

impl Document for Manifest {
    const SCHEMA: &'static str = "qhost.manifest/1";
}
