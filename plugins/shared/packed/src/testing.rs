//! Folders read in memory, for the tests of formats: what the host does with them, without a host.

use std::{fs, io, path::Path, sync::Arc};

use qhost_plugin_api::{
    documents::{Encoding, Model, Reading, Role, RoleKind, SourceTensor},
    sdk::{Failure, FileReader, FileView, Planes, Result, RowDecoder},
};

use crate::{Decoding, Packing, Reader};

/// A folder as a source of weights.
pub struct Source {
    files: Vec<Vec<u8>>,
    /// What the reader told.
    pub reading: Reading,
    /// All parameters; roles are not looked at.
    pub model: Model,
    decoder: Arc<dyn RowDecoder>,
}

/// The files of a folder by name, in order.
///
/// # Errors
/// Fails when they cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    // Weights that tests expect are no part of the folder.
    files.retain(|(name, _)| !name.starts_with("expected"));
    files.sort();
    Ok(files)
}

/// The tensors that the reference makes of a folder, as a file.
///
/// # Errors
/// Fails when it cannot be read.
pub fn expected(folder: &Path) -> io::Result<Vec<u8>> {
    fs::read(folder.join("expected.safetensors"))
}

impl Source {
    /// Reads files as a format.
    ///
    /// # Errors
    /// Fails as the reader and the decoder do.
    pub fn read<P: Packing>(files: &[(String, Vec<u8>)]) -> Result<Self> {
        let views: Vec<_> = files.iter().map(|(name, bytes)| FileView { name, bytes }).collect();
        let reader = Reader::<P>::default();
        let reading = reader.open(&views, None)?;
        let mut model = Model::new("test", "test");
        for parameter in reader.source(&views)?.parameters {
            let role = Role::weight(RoleKind::Other(String::new()));
            model.tensors.push(SourceTensor::new(parameter.name, role, 0, "F32", parameter.shape));
        }
        let decoder = Decoding::<P>::open(&model, &reading)?.decoder();
        Ok(Self { files: files.iter().map(|(_, bytes)| bytes.clone()).collect(), reading, model, decoder })
    }

    fn views(&self) -> Vec<&[u8]> {
        self.files.iter().map(Vec::as_slice).collect()
    }

    /// The id and the shape of a tensor.
    ///
    /// # Errors
    /// Fails when there is none of the name.
    pub fn tensor(&self, name: &str) -> Result<(u32, &SourceTensor)> {
        let found = (0..).zip(&self.model.tensors).find(|(_, tensor)| tensor.name == name);
        found.ok_or_else(|| Failure::internal(format!("there is no {name}")))
    }

    /// Rows of a tensor as floats.
    ///
    /// # Errors
    /// Fails as the decoder does.
    pub fn rows(&self, name: &str, first: u64, rows: u64) -> Result<Vec<f32>> {
        let (id, tensor) = self.tensor(name)?;
        let mut out = vec![0.0; usize::try_from(rows * tensor.row_elements()).unwrap_or(0)];
        self.decoder.rows(&self.views(), id, first, &mut out)?;
        Ok(out)
    }

    /// The encodings of a tensor.
    ///
    /// # Errors
    /// Fails as the decoder does.
    pub fn encodings(&self, name: &str) -> Result<Vec<Encoding>> {
        let (id, _) = self.tensor(name)?;
        Ok(self.decoder.encodings(&self.views())?.swap_remove(id as usize))
    }

    /// Rows of a tensor in an encoding.
    ///
    /// # Errors
    /// Fails as the decoder does.
    pub fn planes(&self, name: &str, encoding: &Encoding, first: u64, rows: u64) -> Result<Planes> {
        let (id, tensor) = self.tensor(name)?;
        let mut planes = Planes::room(encoding, rows, tensor.row_elements())?;
        self.decoder.planes(&self.views(), id, first, &mut planes)?;
        Ok(planes)
    }
}
