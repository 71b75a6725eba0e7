//! What is in files that exist: a checkpoint of safetensors, which the host reads itself, or whatever an
//! installed plugin reads.
//!
//! It knows which files belong together, and no format: what is in a file of a plugin's is the plugin's
//! answer. No weight is read.

mod error;
mod files;
mod roles;
mod safetensors;

use std::path::{Path, PathBuf};

use qhost_plugin_api::documents::{Reading, SourceFile};
use serde_json::Value;

pub use error::Error;
pub use files::File;
pub use safetensors::{FORMAT as SAFETENSORS, LOADERS as SAFETENSORS_LOADERS};

use crate::{
    model,
    plugin::{Catalog, ConnectSettings, LoadedPlugin, NamedBytes},
    source::{self, Checkpoint},
};

/// Files that are open.
pub struct Opened {
    /// What the user named.
    pub path: PathBuf,
    /// The files, mapped: those with weights, in order, and behind them whatever else a plugin gets of a folder.
    pub files: Vec<File>,
    /// What reads them.
    pub content: Content,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What reads files.
pub enum Content {
    /// The host.
    Checkpoint(Box<Checkpoint>),
    /// A plugin, and which of its formats they are in.
    Plugin(Box<LoadedPlugin>, String),
}

/// What is in files.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What the user named.
    pub path: PathBuf,
    /// The files with weights: names and lengths.
    pub files: Vec<SourceFile>,
    /// Everything but the weights.
    pub reading: Reading,
    /// The plugin that read them, if one did: id and version.
    pub plugin: Option<(String, String)>,
    /// The model's family, where the host knows one.
    pub family: Option<String>,
    /// Why there are no roles, in words.
    pub not_understood: Option<String>,
    /// How the checkpoint says that it is quantised.
    pub quantization: Option<Value>,
    /// Small files that belong to the model.
    pub companions: Vec<SourceFile>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Inspection {
    /// Bytes of all files with weights.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

/// Opens what is at a path: a file with the other parts of the same model, or a folder.
///
/// # Errors
/// Fails when nothing is there that can be read; see [`Error`].
pub fn open(path: &Path, catalog: &Catalog, settings: &ConnectSettings) -> Result<Opened, Error> {
    for (found, manifest) in files::readers_of_folder(path, catalog) {
        let files = files::map_folder(path)?;
        let plugin = LoadedPlugin::load(found, manifest, settings)?;
        if let Some(format) = plugin.recognise(&named(&files))? {
            let content = Content::Plugin(Box::new(plugin), format);
            return Ok(Opened { path: path.to_owned(), files, content, warnings: Vec::new() });
        }
    }
    if source::has_weights(path) || !path.exists() {
        let mut checkpoint = source::look(path)?;
        let files = checkpoint.shards.iter();
        let file = |shard: &source::Shard| File {
            name: shard.file_name.clone(),
            has_weights: true,
            mapping: shard.mapping.clone(),
        };
        let files = files.map(file).collect();
        let warnings = std::mem::take(&mut checkpoint.warnings);
        return Ok(Opened {
            path: path.to_owned(),
            files,
            content: Content::Checkpoint(Box::new(checkpoint)),
            warnings,
        });
    }
    let paths = if path.is_dir() { files::only_model(path, catalog)? } else { files::with_siblings(path)? };
    let (files, warnings) = (files::map(&paths)?, files::missing_parts(&paths));
    let front = files.first().map_or(&[][..], |file| file.front());
    let name = files.first().map_or("", |file| file.name.as_str());
    let candidates = catalog.reading(name, front);
    for (found, manifest) in candidates {
        let plugin = LoadedPlugin::load(found, manifest, settings)?;
        if let Some(format) = plugin.recognise(&named(&files))? {
            let content = Content::Plugin(Box::new(plugin), format);
            return Ok(Opened { path: path.to_owned(), files, content, warnings });
        }
    }
    Err(Error::Unknown { path: path.to_owned(), endings: files::endings(catalog) })
}

/// Whether a path is a folder that a plugin may read, by what its small files say.
#[must_use]
pub fn is_folder_of_plugin(path: &Path, catalog: &Catalog) -> bool {
    !files::readers_of_folder(path, catalog).is_empty()
}

/// Files as plugins get them.
#[must_use]
pub fn named(files: &[File]) -> Vec<NamedBytes<'_>> {
    files.iter().map(|file| NamedBytes { name: &file.name, bytes: file.mapping.bytes() }).collect()
}

impl Opened {
    /// Tells what is in the files; of lists in the metadata at most so many elements.
    ///
    /// # Errors
    /// Fails when the plugin cannot read them.
    pub fn inspect(&self, most_elements: Option<u64>) -> Result<Inspection, Error> {
        let mut inspection = Inspection {
            path: self.path.clone(),
            files: self.files.iter().filter(|file| file.has_weights).map(File::described).collect(),
            reading: Reading::new("", Vec::new()),
            plugin: None,
            family: None,
            not_understood: None,
            quantization: None,
            companions: self.files.iter().filter(|file| !file.has_weights).map(File::described).collect(),
            warnings: self.warnings.clone(),
        };
        match &self.content {
            Content::Checkpoint(checkpoint) => safetensors::fill(&mut inspection, checkpoint),
            Content::Plugin(plugin, _) => {
                inspection.reading = plugin.read(&named(&self.files), most_elements)?;
                inspection.plugin = Some((plugin.manifest.id.clone(), plugin.manifest.version.clone()));
                // The host's families are known under the same words to many formats.
                let architecture = inspection.reading.architecture.as_deref();
                inspection.family = model::find(architecture, None).map(|family| family.id.to_owned());
                inspection.warnings.append(&mut inspection.reading.warnings);
                inspection.quantization = self.quantization();
                if self.files.iter().any(|file| !file.has_weights) {
                    let origin = plugin.origin(&named(&self.files))?;
                    let filled = roles::fill(&mut inspection.reading, &origin, &mut inspection.warnings);
                    inspection.not_understood = filled.err().map(|error| error.to_string());
                }
            }
        }
        Ok(inspection)
    }

    /// How the config beside the weights says that they are quantised.
    fn quantization(&self) -> Option<Value> {
        let config = self.files.iter().find(|file| !file.has_weights && file.name == "config.json")?;
        let mut config: Value = serde_json::from_slice(config.mapping.bytes()).ok()?;
        config.get_mut("quantization_config").map(Value::take).filter(|found| !found.is_null())
    }

    /// The id of the format, and the programs that are known to load it.
    #[must_use]
    pub fn format(&self) -> (&str, Vec<&str>) {
        match &self.content {
            Content::Checkpoint(_) => (SAFETENSORS, SAFETENSORS_LOADERS.to_vec()),
            Content::Plugin(plugin, format) => {
                let described = plugin.manifest.formats.iter().find(|described| described.id == *format);
                let loaders = described.map(|described| described.loaders.iter().map(String::as_str).collect());
                (format, loaders.unwrap_or_default())
            }
        }
    }
}
