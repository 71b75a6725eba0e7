//! The folder beside the output that holds the work until it is finished.
//!
//! `NAME.partial/` holds `files/` (the output's files), `journal` and whatever a plugin saved. It
//! lies on the output's disk, so that the last step is a rename.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use super::{Error, Target};

const FILES: &str = "files";
const BLOBS: &str = "saved";
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";

/// The work folder, locked for this process.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    /// Held for its lock; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl WorkFolder {
    /// Opens the work folder of a target, making it (and the target's folder) if it is not there.
    ///
    /// # Errors
    /// Fails when the disk refuses, or when another process works on the same output.
    pub fn open(target: &Target) -> Result<Self, Error> {
        let path = target.work_folder();
        fs::create_dir_all(&path).map_err(Error::io("make the folder", &path))?;
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::io("write", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: target.path() }),
            // Some network disks have no locks: then the user has to take care.
            Err(TryLockError::Error(error)) => tracing::debug!("{} cannot be locked: {error}", lock_path.display()),
        }
        Ok(Self { path, _lock: lock })
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the output's files.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        Self::files_in(&self.path)
    }

    /// The folder of the output's files in a work folder.
    #[must_use]
    pub fn files_in(work_folder: &Path) -> PathBuf {
        work_folder.join(FILES)
    }

    /// The folder of what plugins save.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.path.join(BLOBS)
    }

    /// The journal file.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Throws everything away but the folder and its lock.
    ///
    /// The journal goes first: without it, nothing else in the folder means anything.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn clear(&self) -> Result<(), Error> {
        let journal = self.journal();
        if journal.exists() {
            fs::remove_file(&journal).map_err(Error::io("remove", &journal))?;
        }
        for folder in [self.files(), self.blobs()] {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
            }
        }
        Ok(())
    }

    /// Removes the folder.
    ///
    /// The journal goes last of its contents, so that an interruption leaves a folder from which the
    /// next run sees that the work is finished.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn remove(self) -> Result<(), Error> {
        for folder in [self.files(), self.blobs()] {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
            }
        }
        fs::remove_dir_all(&self.path).map_err(Error::io("remove", &self.path))
    }
}
