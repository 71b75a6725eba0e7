//! The output's files, with their full length reserved on disk before the first byte is written.
//!
//! A disk that is too small is found here, not after hours of work.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use fs4::FileExt as _;
use qhost_plugin_api::documents::PlannedFile;

use super::{Error, Target, sync_folder};
use crate::stream::positioned::{read_full_at, write_all_at};

/// The name of the file of a single-file output while it is worked on.
const SINGLE: &str = "output";

/// Open files of planned length.
#[derive(Debug)]
pub struct ReservedFiles {
    files: Vec<Reserved>,
}

#[derive(Debug)]
struct Reserved {
    /// As planned: empty for a single-file output.
    name: String,
    path: PathBuf,
    bytes: u64,
    file: File,
}

impl ReservedFiles {
    /// Opens the planned files in `folder`, making and reserving those that are not there in full length.
    ///
    /// # Errors
    /// Fails when the disk refuses, for instance because it is full.
    pub fn open(folder: &Path, planned: &[PlannedFile]) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        let files = planned.iter().map(|file| {
            let path = Self::path_of(folder, &file.name);
            let reserved = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let reserved = reserved.map_err(Error::io("write", &path))?;
            let length = reserved.metadata().map_err(Error::io("read", &path))?.len();
            if length != file.bytes {
                reserve(&reserved, file.bytes).map_err(Error::io("reserve room for", &path))?;
            }
            Ok(Reserved { name: file.name.clone(), path, bytes: file.bytes, file: reserved })
        });
        let files = files.collect::<Result<_, Error>>()?;
        sync_folder(folder)?;
        Ok(Self { files })
    }

    /// Opens the files of an output that is in its place, for reading.
    ///
    /// # Errors
    /// Fails when one of them is not there or cannot be read.
    pub fn published(target: &Target, planned: &[PlannedFile]) -> Result<Self, Error> {
        let files = planned.iter().map(|file| {
            let path = if file.name.is_empty() { target.path() } else { target.path().join(&file.name) };
            let opened = File::open(&path).map_err(Error::io("read", &path))?;
            Ok(Reserved { name: file.name.clone(), path, bytes: file.bytes, file: opened })
        });
        Ok(Self { files: files.collect::<Result<_, Error>>()? })
    }

    /// Where a planned file lies while it is worked on.
    #[must_use]
    pub fn path_of(folder: &Path, name: &str) -> PathBuf {
        folder.join(if name.is_empty() { SINGLE } else { name })
    }

    /// Names and lengths, as planned.
    pub fn list(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|file| (file.name.as_str(), file.bytes))
    }

    /// The index of a file by its planned name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<u32> {
        let index = self.files.iter().position(|file| file.name == name)?;
        u32::try_from(index).ok()
    }

    /// Writes at an offset of a file.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn write_at(&self, file: u32, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let reserved = self.get(file)?;
        write_all_at(&reserved.file, offset, bytes).map_err(Error::writing(&reserved.path))
    }

    /// Fills `out` from an offset of a file; gives the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn read_at(&self, file: u32, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let reserved = self.get(file)?;
        read_full_at(&reserved.file, offset, out).map_err(Error::io("read", &reserved.path))
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// Fails when the disk refuses: what was written may be lost.
    pub fn sync(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(|file| file.file.sync_data().map_err(Error::io("write", &file.path)))
    }

    fn get(&self, file: u32) -> Result<&Reserved, Error> {
        self.files.get(file as usize).ok_or_else(|| Error::Io {
            action: "find",
            path: PathBuf::from(format!("file {file}")),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// Sets the length and has the disk set the blocks aside.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    loop {
        match file.allocate(bytes) {
            // Not every disk can set blocks aside; then the plan's look at the free space has to do.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            // A signal came, as one does when the user's terminal changes.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights that stay as they are are written from where they are mapped.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_source_that_is_cut_while_it_is_written_is_no_fault_of_the_output_s_disk() {
        use crate::{
            exit_code::{ExitCode, Fault},
            stream::MappedFile,
        };
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::write(&source, vec![1; 1 << 16]).unwrap();
        let mapped = MappedFile::open(&source).unwrap();
        let files = ReservedFiles::open(&folder.path().join("files"), &[PlannedFile::new("", 1 << 16)]).unwrap();
        files.write_at(0, 0, mapped.bytes()).unwrap();
        OpenOptions::new().write(true).open(&source).unwrap().set_len(4096).unwrap();
        let error = files.write_at(0, 0, mapped.bytes()).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Corrupt, "{error}");
        assert!(error.to_string().contains("cut short") && error.hint().is_some(), "{error}");
    }
}
