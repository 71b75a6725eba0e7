//! Whether files are still those that were opened.
//!
//! Length and time of the last change stand for the weights, as they do for build tools.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::{
    inspect::File,
    text::{self, about, nanoseconds},
};

/// Length and time of each file.
pub(super) struct Stamps(Vec<(String, PathBuf, (u64, SystemTime))>);

impl Stamps {
    /// Of the files of a model that the user named by its folder, or by one of them.
    pub(super) fn of(path: &Path, files: &[File]) -> io::Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let stamp = |file: &File| {
            let path = folder.join(&file.name);
            Ok((file.name.clone(), path.clone(), stamp(&path)?))
        };
        files.iter().map(stamp).collect::<io::Result<_>>().map(Self)
    }

    /// A digest of names, lengths and times, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for (name, _, (length, modified)) in &self.0 {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update(length.to_le_bytes());
            digest.update(nanoseconds(*modified).to_le_bytes());
        }
        text::hex(&digest.finalize())
    }

    /// Whether all files are as they were.
    pub(super) fn are_so(&self) -> io::Result<bool> {
        self.0.iter().try_fold(true, |so, (_, path, was)| Ok(so && stamp(path)? == *was))
    }
}

fn stamp(path: &Path) -> io::Result<(u64, SystemTime)> {
    let metadata = fs::metadata(path).map_err(about(path))?;
    Ok((metadata.len(), metadata.modified()?))
}
