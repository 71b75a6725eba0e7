//! Quantised files as a source: the model that they hold, its small files, and its weights as floats.
//!
//! A plugin tells the config and decodes rows; names, roles and shapes are the family tables'. It knows no format.

mod error;
mod reorder;
mod stamps;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::{Encoding, Model, OpenRequest, Options, Origin, PlacedRole, Role, SourceFile, SourceTensor},
    sdk::Planes,
};

pub use error::Error;

use self::{
    reorder::{Groups, Reordering},
    stamps::Stamps,
};
use crate::{
    inspect::{self, Content, File, Opened, named},
    model,
    plugin::{Catalog, ConnectSettings, FileSource, LoadedJob, LoadedPlugin, RowDecoder},
};

/// Quantised files, opened.
pub struct QuantisedSource {
    /// What the user named.
    pub path: PathBuf,
    /// The model, as if it came from a checkpoint: every tensor is in the checkpoint's layout, and of the narrowest type
    /// of floats that holds its numbers.
    pub model: Arc<Model>,
    /// For every tensor of the model the encodings that hold exactly its numbers, first that of the files; none where the
    /// plugin gives floats alone.
    pub encodings: Vec<Vec<Encoding>>,
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
    stamps: Stamps,
    reordering: Reordering,
    decoder: RowDecoder,
    // The decoder is the job's, and the job the plugin's.
    _job: LoadedJob,
    _plugin: Box<LoadedPlugin>,
}

impl QuantisedSource {
    /// Opens files with the plugin that reads them; the model is called after them, if no other name is given.
    ///
    /// # Errors
    /// Fails when nothing is there that a plugin gives weights of; see [`Error`].
    pub fn open(path: &Path, name: Option<&str>, catalog: &Catalog, settings: &ConnectSettings) -> Result<Self, Error> {
        Self::new(inspect::open(path, catalog, settings)?, name)
    }

    /// Takes files that are open.
    ///
    /// # Errors
    /// As [`QuantisedSource::open`].
    pub fn new(opened: Opened, name: Option<&str>) -> Result<Self, Error> {
        let Opened { path, files, content, warnings: missing } = opened;
        let Content::Plugin(plugin, format) = content else { return Err(Error::Checkpoint { path }) };
        if let Some(what) = missing.into_iter().next() {
            return Err(Error::Incomplete { path, what });
        }
        // Lists in the metadata are vocabularies, which the plugin has read for itself.
        let stamps = Stamps::of(&path, &files).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        let reading = plugin.read(&named(&files), Some(0))?;
        if let Some(what) = reading.warnings.first() {
            return Err(Error::Incomplete { path, what: what.clone() });
        }
        let origin = plugin.origin(&named(&files))?;
        let name = name.map_or_else(|| name_of(&path), str::to_owned);
        let name = model_name(&name, &format, reading.level.as_deref());
        let (mut model, told) =
            described(&origin, &name).map_err(|source| Error::Model { path: path.clone(), source })?;
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
        let decoder = job.decoder()?;
        let mut model = request.model;
        let bytes: Vec<&[u8]> = files.iter().map(|file| file.mapping.bytes()).collect();
        let encodings = decoder.encodings(&bytes, model.tensors.len())?;
        for (tensor, given) in model.tensors.iter_mut().zip(&encodings) {
            if let Some(dtype) = given.last().filter(|last| last.is_float()).and_then(|last| last.dtype.as_deref()) {
                dtype.clone_into(&mut tensor.dtype);
            }
        }
        Ok(Self {
            path,
            model: Arc::new(model),
            encodings,
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
            stamps,
            reordering: Reordering::default(),
            decoder,
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
        let width = self.tensor(tensor, first_row, rows)?.row_elements();
        let files = self.bytes();
        let mut weights = Vec::new();
        for run in self.reordering.runs(tensor, first_row..first_row + rows) {
            let decoded = self.decoder.rows(&files, tensor, run.start, (run.end - run.start, width))?;
            // Mostly there is one run.
            if weights.is_empty() { weights = decoded } else { weights.extend(decoded) }
        }
        self.reordering.floats(tensor, &mut weights);
        Ok(weights)
    }

    /// Rows of a tensor of the model in one of its encodings that has planes.
    ///
    /// # Errors
    /// As [`QuantisedSource::rows`].
    pub fn planes(&self, tensor: u32, first_row: u64, rows: u64, encoding: &Encoding) -> Result<Planes, Error> {
        let inputs = self.tensor(tensor, first_row, rows)?.row_elements();
        let no_room = |failure| Error::NoRoom { failure: Box::new(failure) };
        let files = self.bytes();
        let stored = self.reordering.stored(tensor, encoding);
        // The runs are put behind each other.
        let mut planes = Planes::room(encoding, rows, inputs).map_err(no_room)?;
        (planes.bytes, planes.scales, planes.offsets) = (Vec::new(), Vec::new(), Vec::new());
        for run in self.reordering.runs(tensor, first_row..first_row + rows) {
            let mut piece = Planes::room(&stored, run.end - run.start, inputs).map_err(no_room)?;
            self.decoder.planes(&files, tensor, run.start, &mut piece)?;
            self.reordering.planes(tensor, piece, &mut planes);
        }
        Ok(planes)
    }

    /// Puts the inputs of linears in the order of their groups where the files have them in another and what makes the
    /// inputs can follow; only those that `wanted` says of their encoding. Gives the number of such linears.
    ///
    /// # Errors
    /// Fails when the order of a linear cannot be read.
    pub fn put_in_order(&mut self, wanted: &dyn Fn(&Encoding) -> bool) -> Result<usize, Error> {
        let model = Arc::clone(&self.model);
        let reordering = Reordering::of(&model, &mut |tensor| {
            let given = self.encodings.get(tensor as usize);
            let permuted = given.and_then(|given| given.iter().find(|encoding| encoding.permuted && wanted(encoding)));
            let Some((encoding, size)) = permuted.and_then(|encoding| Some((encoding, encoding.group_size?))) else {
                return Ok(None);
            };
            let one_row = self.planes(tensor, 0, 1, encoding)?;
            Ok::<_, Error>(Some(Groups { of_inputs: one_row.order, size }))
        })?;
        for (tensor, given) in (0_u32..).zip(&mut self.encodings) {
            for encoding in given {
                *encoding = reordering.encoding(tensor, encoding);
            }
        }
        self.reordering = reordering;
        Ok(self.reordering.linears)
    }

    /// How the files store a tensor.
    #[must_use]
    pub fn stored(&self, tensor: usize) -> Encoding {
        let told = self.encodings.get(tensor).and_then(|given| given.first());
        told.cloned().unwrap_or_else(|| Encoding::float("F32"))
    }

    /// A digest of what the files are, by their names, lengths and times.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.stamps.digest()
    }

    /// Whether the files are as they were when they were opened, by length and time.
    ///
    /// # Errors
    /// Fails when a file has gone.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        self.stamps.are_so()
    }

    /// Lets the pages of the files go that are in this process's memory; they come back when they are touched.
    pub fn let_go(&self) {
        for file in self.files.iter().filter(|file| file.has_weights) {
            file.mapping.release(0..file.mapping.bytes().len() as u64);
        }
    }

    fn bytes(&self) -> Vec<&[u8]> {
        self.files.iter().map(|file| file.mapping.bytes()).collect()
    }

    /// A tensor that has such rows.
    fn tensor(&self, tensor: u32, first_row: u64, rows: u64) -> Result<&SourceTensor, Error> {
        let inside = |rows_there: u64| first_row.checked_add(rows).is_some_and(|end| end <= rows_there);
        let source = self.model.tensors.get(tensor as usize).filter(|source| inside(source.rows()));
        source.ok_or(Error::NoRows { tensor, first_row, rows })
    }
}

/// A name for people: that of the folder, or of the file without its ending.
fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The name without what tells its level and format, and which part of a split model it is: `NAME-FORMAT-LEVEL`,
/// `NAME-LEVEL-00001-of-00002`.
fn model_name(name: &str, format: &str, level: Option<&str>) -> String {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = name.rsplit_once("-of-").filter(|(_, of)| digits(of));
    let whole = part.and_then(|(rest, _)| rest.rsplit_once('-')).filter(|(_, number)| digits(number));
    let mut name = whole.map_or(name, |(rest, _)| rest);
    for said in level.into_iter().chain([format]) {
        let at = name.len().checked_sub(said.len()).filter(|at| *at > 0 && name.is_char_boundary(*at));
        if let Some((rest, end)) = at.map(|at| name.split_at(at))
            && end.eq_ignore_ascii_case(said)
            && let Some(shorter) = rest.strip_suffix(['-', '.', '_']).filter(|shorter| !shorter.is_empty())
        {
            name = shorter;
        }
    }
    name.to_owned()
}

/// The model of which the files tell, and what the user should know.
fn described(origin: &Origin, name: &str) -> Result<(Model, Vec<String>), model::Error> {
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

#[cfg(test)]
mod tests {
    use super::model_name;

    #[test]
    fn what_tells_of_format_and_level_is_no_part_of_a_model_s_name() {
        for (name, format, level, model) in [
            ("Llama-3.2-1B-K_4", "rows", Some("K_4"), "Llama-3.2-1B"),
            ("llama.k_4", "rows", Some("K_4"), "llama"),
            ("Llama-ROWS-4bit-g128", "rows", Some("4bit-g128"), "Llama"),
            ("Llama-K_4-00001-of-00002", "rows", Some("K_4"), "Llama"),
            ("Llama-rows", "rows", Some("4bit-g128"), "Llama"),
            ("K_4", "rows", Some("K_4"), "K_4"),
            ("model", "rows", None, "model"),
            ("größe-K", "rows", Some("ße-Kx"), "größe-K"),
        ] {
            assert_eq!(model_name(name, format, level), model, "{name}");
        }
    }
}
