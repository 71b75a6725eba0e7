//! A file mapped read-only, whose pages can be asked for ahead and let go after use.
#![expect(unsafe_code, reason = "mapping a file and advising the kernel about its pages")]

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// A mapped file.
///
/// Whoever truncates the file while it is mapped makes the kernel end this process with a bus
/// error; callers compare length and modification time before they rely on it for long.
#[derive(Debug)]
pub struct MappedFile {
    mapping: Option<Mmap>,
}

impl MappedFile {
    /// Maps the file at `path`; an empty file gives no bytes.
    ///
    /// # Errors
    /// Fails when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() == 0 {
            return Ok(Self { mapping: None });
        }
        // SAFETY: the mapping is read-only and private to this struct. The bytes may change if another
        // process writes to the file; we read them as plain integers, for which every value is valid.
        let mapping = unsafe { Mmap::map(&file)? };
        let mapped = Mapped { length: mapping.len(), path: path.to_owned(), identity: identity(&metadata) };
        MAPPED.write().unwrap_or_else(PoisonError::into_inner).insert(mapping.as_ptr() as usize, mapped);
        Ok(Self { mapping: Some(mapping) })
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.mapping.as_deref().unwrap_or_default()
    }

    /// Asks the kernel to read a range into its cache; it returns before the bytes are there.
    pub fn prefetch(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some((mapping, offset, length)) = self.within(&range) {
            // Advice only: if the kernel does not take it, the bytes are read when they are touched.
            let _ = mapping.advise_range(memmap2::Advice::WillNeed, offset, length);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Takes the pages of a range out of this process's memory; they stay in the kernel's cache as long
    /// as it likes, and come back when touched.
    pub fn release(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some((mapping, offset, length)) = self.within(&range) {
            // SAFETY: the mapping is a shared, read-only view of a file and never written to, so dropped
            // pages come back with the file's contents.
            let _ = unsafe { mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    #[cfg(unix)]
    fn within(&self, range: &Range<u64>) -> Option<(&Mmap, usize, usize)> {
        let mapping = self.mapping.as_ref()?;
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?.min(mapping.len());
        (start < end).then(|| (mapping, start, end - start))
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if let Some(mapping) = &self.mapping {
            let start = mapping.as_ptr() as usize;
            MAPPED.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
        }
    }
}

/// What is mapped now, by the address.
static MAPPED: RwLock<BTreeMap<usize, Mapped>> = RwLock::new(BTreeMap::new());

#[derive(Debug)]
struct Mapped {
    length: usize,
    path: PathBuf,
    identity: (u64, u64),
}

/// A file, by its path and what tells it from another one at the same path.
pub type FileIdentity = (PathBuf, (u64, u64));

/// Bytes of a mapped file by their place, so that another process can map the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedPlace {
    /// The file.
    pub path: PathBuf,
    /// Tells it from another one that has been put in its place.
    identity: (u64, u64),
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl MappedPlace {
    /// Where these bytes are, if they are in a file that is mapped.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let start = bytes.as_ptr() as usize;
        let all = MAPPED.read().unwrap_or_else(PoisonError::into_inner);
        let (first, mapped) = all.range(..=start).next_back()?;
        let offset = start - first;
        let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= mapped.length);
        inside.then(|| Self {
            path: mapped.path.clone(),
            identity: mapped.identity,
            offset: offset as u64,
            length: bytes.len() as u64,
        })
    }

    /// Maps the file.
    ///
    /// # Errors
    /// Fails when it cannot be mapped, or is another one by now.
    pub fn map(&self) -> io::Result<MappedFile> {
        if identity(&std::fs::metadata(&self.path)?) != self.identity {
            return Err(io::Error::other(format!("{} was replaced meanwhile", self.path.display())));
        }
        MappedFile::open(&self.path)
    }

    /// The bytes in the mapped file.
    #[must_use]
    pub fn within<'a>(&self, file: &'a MappedFile) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.length).ok()?)?;
        file.bytes().get(start..end)
    }

    /// What the file is, apart from the place in it.
    #[must_use]
    pub fn file(&self) -> FileIdentity {
        (self.path.clone(), self.identity)
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Files have no such numbers here.
#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> (u64, u64) {
    (0, metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_mapped_file_are_found_by_their_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 1000]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let place = MappedPlace::of(&file.bytes()[100..300]).unwrap();
        assert_eq!((place.offset, place.length), (100, 200));
        assert_eq!(place.within(&place.map().unwrap()), Some(&[7; 200][..]));
        assert_eq!(MappedPlace::of(&[7; 10]), None);
        std::fs::rename(&path, folder.path().join("y")).unwrap();
        std::fs::write(&path, [8; 1000]).unwrap();
        assert!(place.map().unwrap_err().to_string().contains("replaced"));
        let bytes = file.bytes().as_ptr_range();
        drop(file);
        assert!(!MAPPED.read().unwrap().contains_key(&(bytes.start as usize)));
    }
}
