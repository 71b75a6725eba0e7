//! Files that plugins may read: a model's companions, and the files of a finished output.

use std::{fs::File, io, sync::Arc};

use qhost_plugin_api::{
    abi::{Failure, FailureKind},
    documents::SourceFile,
};

use crate::{plugin::FileSource, source::CompanionFile, stream::positioned::read_full_at, write::ReservedFiles};

/// The small files of a model.
pub(super) struct Companions(pub(super) Vec<CompanionFile>);

impl FileSource for Companions {
    fn list(&self) -> Vec<SourceFile> {
        self.0.iter().map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect()
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        let file = self.0.iter().find(|file| file.name == name).ok_or_else(|| no_such_file(name))?;
        let read = File::open(&file.path).and_then(|file| read_full_at(&file, offset, out));
        let unreadable = |error: io::Error| Failure::new(FailureKind::NOT_FOUND, format!("cannot be read: {error}"));
        read.map(|bytes| bytes as u64).map_err(|error| unreadable(error).about(name))
    }
}

/// The files of an output before it is put in place.
pub(super) struct OutputFiles(pub(super) Arc<ReservedFiles>);

impl FileSource for OutputFiles {
    fn list(&self) -> Vec<SourceFile> {
        self.0.list().map(|(name, bytes)| SourceFile::new(name, bytes)).collect()
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        let index = self.0.index_of(name).ok_or_else(|| no_such_file(name))?;
        let read = self.0.read_at(index, offset, out);
        read.map(|bytes| bytes as u64).map_err(|error| super::unit::as_failure(&error))
    }
}

fn no_such_file(name: &str) -> Failure {
    Failure::internal("there is no such file").about(name)
}
