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
    /// The kinds of encodings that it makes of each other, where it has the service `transcode/1`. They are here so that
    /// only a plugin on a way between two formats is loaded; its description tells them in detail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transcodes: Vec<ManifestTranscoding>,
}

/// Kinds of encodings between which a plugin goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestTranscoding {
    /// The kind that it takes.
    pub from: String,
    /// The kind that it gives.
    pub to: String,
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
    /// How its files are known, where the plugin has the service `reader/1`; empty if it has not. It is
    /// here, and not in the description, so that only the plugin that is concerned is loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<FileSignature>,
    /// How a folder of its files is known among those of safetensors, where the plugin has the service `reader/1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<FolderSignature>,
    /// Programs that load the format, for `--for`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loaders: Vec<String>,
}

/// How a file of a format looks from outside: it has the ending, or begins with the magic bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSignature {
    /// The end of its name, without the dot, in lower case.
    pub ending: String,
    /// The bytes that it begins with, in hexadecimal; empty if it has none of its own.
    #[serde(default)]
    pub magic: String,
}

impl FileSignature {
    /// Whether a file's name has the ending, in any case.
    #[must_use]
    pub fn fits_name(&self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(_, ending)| ending.eq_ignore_ascii_case(&self.ending))
    }

    /// Whether a file's first bytes are the magic ones.
    #[must_use]
    pub fn fits_bytes(&self, front: &[u8]) -> bool {
        let digits = self.magic.as_bytes().chunks_exact(2);
        let whole = digits.remainder().is_empty() && digits.len() > 0 && digits.len() <= front.len();
        let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        whole && digits.zip(front).all(|(pair, &is)| byte(pair) == Some(is))
    }
}

/// How a folder of a format looks from outside: a small JSON file in it has a value under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderSignature {
    /// The file's name, such as `config.json`.
    pub file: String,
    /// The key, with dots between those of nested objects. Empty where it is enough that the file is an object.
    #[serde(default)]
    pub key: String,
    /// The text that the key has.
    #[serde(default)]
    pub value: String,
}

impl FolderSignature {
    /// Whether the contents of a file of that name are those of the format.
    #[must_use]
    pub fn fits(&self, contents: &serde_json::Value) -> bool {
        if self.key.is_empty() {
            return contents.is_object();
        }
        let found = self.key.split('.').try_fold(contents, |inner, key| inner.get(key));
        found.and_then(serde_json::Value::as_str) == Some(&self.value)
    }
}

impl Document for Manifest {
    const SCHEMA: &'static str = "qhost.manifest/1";
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FileSignature, FolderSignature};

    #[test]
    fn a_file_is_known_by_its_ending_or_its_first_bytes() {
        let signature = FileSignature { ending: "rows".into(), magic: "524f57".into() };
        assert!(signature.fits_name("a.b.ROWS") && !signature.fits_name("rows") && !signature.fits_name("a.rows.txt"));
        assert!(signature.fits_bytes(b"ROW") && signature.fits_bytes(b"ROWS"));
        assert!(!signature.fits_bytes(b"RO") && !signature.fits_bytes(b"row"));
        for magic in ["", "5", "52f", "zz", "+5"] {
            assert!(!FileSignature { ending: "x".into(), magic: magic.into() }.fits_bytes(b"ROWS"), "{magic}");
        }
    }

    #[test]
    fn a_folder_is_known_by_what_a_file_in_it_says() {
        let signature = |key: &str, value: &str| FolderSignature {
            file: "config.json".into(),
            key: key.into(),
            value: value.into(),
        };
        let config = json!({"packing": {"method": "rows", "bits": 4}});
        assert!(signature("packing.method", "rows").fits(&config) && signature("", "").fits(&config));
        for (key, value) in [("packing.method", "row"), ("packing.bits", "4"), ("packing", ""), ("method", "rows")] {
            assert!(!signature(key, value).fits(&config), "{key}");
        }
        assert!(!signature("", "").fits(&json!([])));
    }
}
