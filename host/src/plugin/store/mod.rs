//! Plugins that were installed: copies of their libraries by what is in them, and the list of those in use.
//!
//! ```text
//! DATA/qhost/
//!   plugins.lock            which plugins are installed, each with its library's digest and where it came from
//!   store/SHA256/           one library, never changed once it is there, and the receipt of its installation
//! ```
//!
//! A library is copied, so whatever becomes of the file that was installed, and of the folder that it was built in, does
//! not change what is loaded. It knows nothing of what plugins do; who installs one checks it first.

mod archive;
mod lock;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use qhost_plugin_api::documents::Manifest;
use serde::Serialize;
use tempfile::TempDir;

pub use self::lock::Entry;
use self::lock::LockFile;
use super::{Error, catalog::digest};

/// The store of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
    lock: PathBuf,
}

/// A library that was copied into the store and is not in use yet.
#[derive(Debug)]
pub struct Staged {
    folder: TempDir,
    /// Where the copy is.
    pub library: PathBuf,
    /// SHA-256 of the library, in hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub origin: String,
}

/// What is kept of an installation, beside the library.
#[derive(Debug, Serialize)]
struct Receipt<'a> {
    schema: &'static str,
    #[serde(flatten)]
    entry: &'a Entry,
    api: &'a str,
    bytes: u64,
    /// Seconds since 1970.
    installed: u64,
    /// The host that checked it.
    host: &'static str,
}

impl Store {
    /// That in a user's data folder.
    #[must_use]
    pub fn in_data(folder: &Path) -> Self {
        let own = folder.join("qhost");
        Self { folder: own.join("store"), lock: own.join("plugins.lock") }
    }

    /// What is installed, by id. A list that cannot be read is told, and taken to be empty.
    ///
    /// # Errors
    /// Fails when there is a list and it cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        LockFile::read(&self.lock).map(|lock| lock.plugins)
    }

    /// Where the library of an entry is.
    #[must_use]
    pub fn library(&self, entry: &Entry) -> PathBuf {
        self.folder.join(&entry.sha256).join(&entry.file)
    }

    /// The list of what is installed.
    #[must_use]
    pub fn lock_file(&self) -> &Path {
        &self.lock
    }

    /// Copies a library, or the one in an archive, into the store.
    ///
    /// # Errors
    /// Fails when the file cannot be read, holds no library or several, or the disk refuses.
    pub fn stage(&self, file: &Path) -> Result<Staged, Error> {
        let io = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Store { action, path, source }
        };
        let origin = file.canonicalize().map_err(io("read", file))?;
        let found = archive::library_in(&origin)?;
        fs::create_dir_all(&self.folder).map_err(io("make the folder", &self.folder))?;
        let folder = tempfile::Builder::new().prefix(".staged-").tempdir_in(&self.folder);
        let folder = folder.map_err(io("make a folder in", &self.folder))?;
        let library = folder.path().join(&found.name);
        write(&library, &found.bytes).map_err(io("write", &library))?;
        let sha256 = digest(&found.bytes);
        Ok(Staged { folder, library, sha256, origin: origin.display().to_string() })
    }

    /// Puts a library that was staged into use, in place of another with the same id, which it gives.
    ///
    /// # Errors
    /// Fails when the disk refuses; what was installed before is then in use still.
    pub fn install(&self, staged: Staged, manifest: &Manifest) -> Result<Option<Entry>, Error> {
        let Staged { folder, library, sha256, origin } = staged;
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = Entry { id: manifest.id.clone(), version: manifest.version.clone(), sha256, file: name, origin };
        let io = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Store { action, path, source }
        };
        let bytes = fs::metadata(&library).map_err(io("read", &library))?.len();
        let receipt = Receipt {
            schema: "qhost.receipt/1",
            entry: &entry,
            api: &manifest.api,
            bytes,
            installed: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            host: env!("CARGO_PKG_VERSION"),
        };
        let receipt = serde_json::to_vec_pretty(&receipt).unwrap_or_default();
        let place = folder.path().join("receipt.json");
        write(&place, &receipt).map_err(io("write", &place))?;
        let guard = LockFile::hold(&self.folder)?;
        let mut lock = LockFile::read(&self.lock)?;
        let target = self.folder.join(&entry.sha256);
        if target.exists() {
            // The same library; or it was, and somebody has changed it since.
            fs::remove_dir_all(&target).map_err(io("remove", &target))?;
        }
        fs::rename(folder.keep(), &target).map_err(io("put in place", &target))?;
        let before = lock.put(entry.clone());
        lock.write(&self.lock)?;
        if let Some(before) = before.as_ref().filter(|before| !lock.uses(&before.sha256)) {
            self.remove_library(before);
        }
        drop(guard);
        Ok(before)
    }

    /// Takes a plugin out of use, and its library out of the store; gives none if it is not installed.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn remove(&self, id: &str) -> Result<Option<Entry>, Error> {
        if !self.lock.exists() {
            return Ok(None);
        }
        let guard = LockFile::hold(&self.folder)?;
        let mut lock = LockFile::read(&self.lock)?;
        let Some(removed) = lock.take(id) else { return Ok(None) };
        lock.write(&self.lock)?;
        if !lock.uses(&removed.sha256) {
            self.remove_library(&removed);
        }
        drop(guard);
        Ok(Some(removed))
    }

    /// A library that nothing refers to any more only takes room.
    fn remove_library(&self, entry: &Entry) {
        let folder = self.folder.join(&entry.sha256);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!("{} is not needed any more and cannot be removed: {error}", folder.display());
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
