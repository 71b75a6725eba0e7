//! `plugins.lock`: which plugins are installed, each with its library's digest and where it came from.
//!
//! It is small JSON in the order of the ids, meant to be read, compared and copied to other machines.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{super::Error, write};

const SCHEMA: &str = "qhost.plugins-lock/1";

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The plugin's id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its library, in hexadecimal.
    pub sha256: String,
    /// The library's file name.
    pub file: String,
    /// The file that it was installed from.
    pub origin: String,
}

/// The list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LockFile {
    schema: String,
    pub(super) plugins: Vec<Entry>,
}

impl LockFile {
    /// Reads the list; none is an empty one.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadLock { path: path.to_owned(), reason };
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { schema: SCHEMA.to_owned(), plugins: Vec::new() });
            }
            read => read.map_err(|error| bad(error.to_string()))?,
        };
        let lock: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if lock.schema != SCHEMA {
            return Err(bad(format!("its schema is {}, and {SCHEMA} is known", lock.schema)));
        }
        // Both become parts of paths.
        let plain = |entry: &Entry| {
            let is_digest = entry.sha256.len() == 64 && entry.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_digest && Path::new(&entry.file).file_name() == Some(entry.file.as_ref())
        };
        match lock.plugins.iter().find(|entry| !plain(entry)) {
            Some(entry) => Err(bad(format!("the entry of `{}` names no file of the store", entry.id.escape_debug()))),
            None => Ok(lock),
        }
    }

    /// Writes the list in one step.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Store { action: "write", path: path.to_owned(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let draft = path.with_extension("lock.draft");
        write(&draft, &text).and_then(|()| fs::rename(&draft, path)).map_err(failed)
    }

    /// Puts an entry in, and gives the one with the same id that was there before.
    pub(super) fn put(&mut self, entry: Entry) -> Option<Entry> {
        let before = self.take(&entry.id);
        self.plugins.push(entry);
        self.plugins.sort_by(|a, b| a.id.cmp(&b.id));
        before
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, id: &str) -> Option<Entry> {
        let place = self.plugins.iter().position(|entry| entry.id == id)?;
        Some(self.plugins.remove(place))
    }

    /// Whether an entry is about this library.
    pub(super) fn uses(&self, sha256: &str) -> bool {
        self.plugins.iter().any(|entry| entry.sha256 == sha256)
    }

    /// Keeps other processes from changing the store while the file lives.
    pub(super) fn hold(store: &Path) -> Result<File, Error> {
        let path = store.join("lock");
        let held = fs::create_dir_all(store).and_then(|()| {
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        });
        held.map_err(|source| Error::Store { action: "lock", path, source })
    }
}
