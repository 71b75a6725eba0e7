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

use crate::{
    plugin::FileSource, source::CompanionFile, stream::positioned::read_full_at, text::about, write::ReservedFiles,
};

/// A small file of a model.
#[derive(Debug, Clone)]
pub struct Companion {
    /// Its name, relative to the model.
    pub name: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    File { path: PathBuf, bytes: u64 },
    Memory(Arc<[u8]>),
}

impl From<&CompanionFile> for Companion {
    fn from(file: &CompanionFile) -> Self {
        Self { name: file.name.clone(), content: Content::File { path: file.path.clone(), bytes: file.bytes } }
    }
}

impl Companion {
    /// A file somewhere else, under a name of ours.
    pub(super) fn at(name: &str, path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let content = Content::File { path: path.to_owned(), bytes: metadata.len() };
        Ok(Self { name: name.to_owned(), content })
    }

    /// A file that is nowhere but in memory.
    pub(super) fn in_memory(name: String, bytes: &[u8]) -> Self {
        Self { name, content: Content::Memory(bytes.into()) }
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::File { bytes, .. } => *bytes,
            Content::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// All of it.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.content {
            Content::File { path, .. } => fs::read(path).map_err(about(path)),
            Content::Memory(bytes) => Ok(bytes.to_vec()),
        }
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        match &self.content {
            Content::File { path, .. } => read_at(path, offset, out),
            Content::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                let length = rest.len().min(out.len());
                out[..length].copy_from_slice(&rest[..length]);
                Ok(length as u64)
            }
        }
    }
}

/// The small files of a model, and which of them were read.
pub struct Companions {
    files: Vec<Companion>,
    read: Mutex<BTreeSet<String>>,
}

impl Companions {
    /// These files.
    #[must_use]
    pub fn new(files: Vec<Companion>) -> Self {
        Self { files, read: Mutex::default() }
    }

    /// The names of those that were read so far.
    pub(super) fn read_so_far(&self) -> BTreeSet<String> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FileSource for Companions {
    fn list(&self) -> Vec<SourceFile> {
        self.files.iter().map(|file| SourceFile::new(file.name.clone(), file.bytes())).collect()
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        let file = self.files.iter().find(|file| file.name == name).ok_or_else(|| no_such_file(name))?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        file.read_at(offset, out).map_err(|failure| failure.about(name))
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
