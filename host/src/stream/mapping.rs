//! A file mapped read-only, whose pages can be asked for ahead and let go after use.
#![expect(unsafe_code, reason = "mapping a file and advising the kernel about its pages")]

use std::{fs::File, io, ops::Range, path::Path};

use memmap2::Mmap;

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
        if file.metadata()?.len() == 0 {
            return Ok(Self { mapping: None });
        }
        // SAFETY: the mapping is read-only and private to this struct. The bytes may change if another
        // process writes to the file; we read them as plain integers, for which every value is valid.
        let mapping = unsafe { Mmap::map(&file)? };
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
