//! Reading named files through the host.

use std::{fmt, sync::Arc};

use abi_stable::std_types::RSliceMut;
use serde::de::DeserializeOwned;

use super::{Failure, FailureKind, Result, ServiceHandle};
use crate::{abi::FilesObject, documents::SourceFile};

/// The file that `--imatrix` names, unless that is `auto`.
pub const IMATRIX_FILE: &str = "--imatrix";

/// A set of named, read-only files.
///
/// Beside a model's small files, a file that the user names with an option is among them while a job is opened and its
/// units run, under the option's name: [`IMATRIX_FILE`].
#[derive(Clone)]
pub struct FilesHandle {
    object: Arc<FilesObject>,
    list: Arc<[SourceFile]>,
}

impl fmt::Debug for FilesHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesHandle").field("list", &self.list).finish_non_exhaustive()
    }
}

impl FilesHandle {
    /// Wraps the border's object.
    ///
    /// # Errors
    /// Fails when the host's list is not the documented JSON.
    pub fn new(object: FilesObject) -> Result<Self> {
        let list: Vec<SourceFile> = serde_json::from_str(&object.list())
            .map_err(|error| Failure::internal(format!("the host's file list cannot be read: {error}")))?;
        Ok(Self { object: Arc::new(object), list: list.into() })
    }

    /// Finds a service of these files by its versioned name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceHandle> {
        ServiceHandle::found(self.object.query_interface(name.into()))
    }

    /// The files, in the host's order.
    #[must_use]
    pub fn list(&self) -> &[SourceFile] {
        &self.list
    }

    /// The length of a file, or `None` if there is no such file.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        self.list.iter().find(|file| file.name == name).map(|file| file.bytes)
    }

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// Fails when the file is absent, cannot be read, or ends before `out` is full.
    pub fn read_exact(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        let wanted = out.len() as u64;
        let read = self.object.read(name.into(), offset, RSliceMut::from_mut_slice(out)).into_result()?;
        if read == wanted {
            Ok(())
        } else {
            Err(damaged(name, format!("ends at byte {}, expected at least {}", offset + read, offset + wanted)))
        }
    }

    /// The whole of a small file, or `None` if there is no such file.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(length) = self.length(name) else { return Ok(None) };
        let length = usize::try_from(length)
            .map_err(|_| Failure::new(FailureKind::RESOURCES, "too large to be read into memory").about(name))?;
        let mut bytes = vec![0; length];
        self.read_exact(name, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// A small UTF-8 file, or `None` if there is no such file.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is not UTF-8.
    pub fn read_text(&self, name: &str) -> Result<Option<String>> {
        self.read(name)?
            .map(|bytes| String::from_utf8(bytes).map_err(|_| damaged(name, "not valid UTF-8".into())))
            .transpose()
    }

    /// A small JSON file, or `None` if there is no such file.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is not the JSON asked for.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.read(name)?
            .map(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| damaged(name, format!("not the JSON expected: {error}")))
            })
            .transpose()
    }
}

fn damaged(name: &str, what: String) -> Failure {
    Failure::corrupt(what).about(name).hint("the download is probably incomplete: fetch the file again")
}
