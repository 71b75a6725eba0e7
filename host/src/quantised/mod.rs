//! Quantised files as a source: the model that they hold, its small files, and its weights as floats.
//!
//! A plugin tells the config and decodes rows; names, roles and shapes are the family tables'. It knows no format.

mod error;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::{Model, OpenRequest, Options, Origin, PlacedRole, Role, SourceFile},
};

pub use error::Error;

use crate::{
    inspect::{self, Content, File, Opened, named},
    model,
    plugin::{Catalog, ConnectSettings, FileSource, LoadedJob, LoadedPlugin, RowDecoder},
};

/// Quantised files, opened.
pub struct QuantisedSource {
    /// What the user named.
    pub path: PathBuf,
    /// The model, as if it came from a checkpoint: every tensor is of the dtype F32, in the checkpoint's layout.
    pub model: Arc<Model>,
    /// The small files that the checkpoint would have, as far as the files tell: names and contents.
    pub companions: Vec<(String, Vec<u8>)>,
    /// The id of the format.
    pub format: String,
    /// The level that the files say they have.
    pub level: Option<String>,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
    files: Vec<File>,
    decoder: RowDecoder,
    // The decoder is the job's, and the job the plugin's.
    _job: LoadedJob,
    _plugin: Box<LoadedPlugin>,
}

impl QuantisedSource {
    /// Opens files with the plugin that reads them.
    ///
    /// # Errors
    /// Fails when nothing is there that a plugin gives weights of; see [`Error`].
    pub fn open(path: &Path, catalog: &Catalog, settings: &ConnectSettings) -> Result<Self, Error> {
        Self::new(inspect::open(path, catalog, settings)?)
    }

    /// Takes files that are open.
    ///
    /// # Errors
    /// As [`QuantisedSource::open`].
    pub fn new(opened: Opened) -> Result<Self, Error> {
        let Opened { path, files, content, warnings: missing } = opened;
        let Content::Plugin(plugin, format) = content else { return Err(Error::Checkpoint { path }) };
        if let Some(what) = missing.into_iter().next() {
            return Err(Error::Incomplete { path, what });
        }
        // Lists in the metadata are vocabularies, which the plugin has read for itself.
        let reading = plugin.read(&named(&files), Some(0))?;
        if let Some(what) = reading.warnings.first() {
            return Err(Error::Incomplete { path, what: what.clone() });
        }
        let origin = plugin.origin(&named(&files))?;
        let (mut model, told) =
            described(&origin, &name_of(&path)).map_err(|source| Error::Model { path: path.clone(), source })?;
        let mut warnings = origin.warnings;
        warnings.extend(told);
        let told = origin.companions.into_iter().map(|file| (file.name, file.text.into_bytes()));
        let beside = files.iter().filter(|file| !file.has_weights);
        let beside = beside.map(|file| (file.name.clone(), file.mapping.bytes().to_vec()));
        let companions: Vec<_> = told.chain(beside).collect();
        model.companions =
            companions.iter().map(|(name, bytes)| SourceFile::new(&**name, bytes.len() as u64)).collect();
        let level = reading.level.clone();
        let mut request = OpenRequest::new(format.clone(), Options::default(), model);
        (request.existing, request.decode) = (Some(reading), true);
        let job = plugin.open(&request, Arc::new(NoFiles))?;
        Ok(Self {
            path,
            model: Arc::new(request.model),
            companions,
            format,
            level,
            file_bytes: files
                .iter()
                .filter(|file| file.has_weights)
                .map(|file| file.mapping.bytes().len() as u64)
                .sum(),
            warnings,
            files,
            decoder: job.decoder()?,
            _job: job,
            _plugin: plugin,
        })
    }

    /// Rows of a tensor of the model as floats, tightly packed. Any number of threads may ask at once; besides
    /// the answer about as much memory is in use for the time.
    ///
    /// # Errors
    /// Fails when there are no such rows, the files are damaged, or the plugin fails.
    pub fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Vec<f32>, Error> {
        let source = self.model.tensors.get(tensor as usize);
        let inside = |rows_there: u64| first_row.checked_add(rows).is_some_and(|end| end <= rows_there);
        let source = source.filter(|source| inside(source.rows()));
        let source = source.ok_or(Error::NoRows { tensor, first_row, rows })?;
        let files: Vec<&[u8]> = self.files.iter().map(|file| file.mapping.bytes()).collect();
        Ok(self.decoder.rows(&files, tensor, first_row, (rows, source.row_elements()))?)
    }
}

/// A name for people: that of the folder, or of the file without its ending.
fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The model of which the files tell, and what the user should know.
fn described(origin: &Origin, name: &str) -> Result<(Model, Vec<String>), model::Error> {
    let name = origin.name.as_deref().unwrap_or(name);
    if !origin.parameters.is_empty() {
        return model::of_parameters(name, &origin.config, &origin.parameters);
    }
    let present: BTreeSet<&PlacedRole> = origin.present.iter().collect();
    let is_present = |role: &Role, layer| present.contains(&PlacedRole::new(role.clone(), layer));
    Ok((model::expected(name, &origin.config, &is_present)?, Vec::new()))
}

/// The companions of a model that is in no folder: the plugin has told them itself.
struct NoFiles;

impl FileSource for NoFiles {
    fn list(&self) -> Vec<SourceFile> {
        Vec::new()
    }

    fn read(&self, name: &str, _: u64, _: &mut [u8]) -> Result<u64, Failure> {
        Err(Failure::new(FailureKind::PLUGIN, format!("there is no file {name}")))
    }
}
