//! Files that plugins may read: a model's companions, and the files of a finished output.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::SourceFile,
};

use crate::{plugin::FileSource, source::CompanionFile, stream::positioned::read_full_at, write::ReservedFiles};

/// The small files of a model, and which of them were read.
pub struct Companions {
    files: Vec<CompanionFile>,
    read: Mutex<BTreeSet<String>>,
}

impl Companions {
    /// These files.
    #[must_use]
    pub fn new(files: Vec<CompanionFile>) -> Self {
        Self { files, read: Mutex::default() }
    }

    /// The names of those that were read so far.
    pub(super) fn read_so_far(&self) -> BTreeSet<String> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FileSource for Companions {
    fn list(&self) -> Vec<SourceFile> {
        self.files.iter().map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect()
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        let file = self.files.iter().find(|file| file.name == name).ok_or_else(|| no_such_file(name))?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        read_at(&file.path, offset, out).map_err(|failure| failure.about(name))
    }
}

/// The files of an output before it is put in place: those that were planned, and the companions.
pub(super) struct OutputFiles {
    pub(super) reserved: Arc<ReservedFiles>,
    /// Where the companions are.
    pub(super) folder: PathBuf,
    pub(super) companions: Vec<String>,
}

impl FileSource for OutputFiles {
    fn list(&self) -> Vec<SourceFile> {
        let planned = self.reserved.list().map(|(name, bytes)| SourceFile::new(name, bytes));
        let companions = self.companions.iter().filter_map(|name| {
            let bytes = fs::metadata(self.folder.join(name)).ok()?.len();
            Some(SourceFile::new(name.clone(), bytes))
        });
        planned.chain(companions).collect()
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        if self.companions.iter().any(|companion| companion == name) {
            return read_at(&self.folder.join(name), offset, out).map_err(|failure| failure.about(name));
        }
        let index = self.reserved.index_of(name).ok_or_else(|| no_such_file(name))?;
        let read = self.reserved.read_at(index, offset, out);
        read.map(|bytes| bytes as u64).map_err(|error| super::unit::as_failure(&error))
    }
}

fn read_at(path: &Path, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
    let read = File::open(path).and_then(|file| read_full_at(&file, offset, out));
    let unreadable = |error: io::Error| Failure::new(FailureKind::NOT_FOUND, format!("cannot be read: {error}"));
    read.map(|bytes| bytes as u64).map_err(unreadable)
}

fn no_such_file(name: &str) -> Failure {
    Failure::internal("there is no such file").about(name)
}
