//! The folder beside the output that holds the work until it is finished.
//!
//! `NAME.partial/` holds `files/` (the output's files), `journal`, hidden states and whatever a plugin saved. It
//! lies on the output's disk, so that the last step is a rename. What is not of qhost's making is
//! never removed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Error, Target, sync_folder};

const FILES: &str = "files";
const BLOBS: &str = "saved";
const STATES: &str = "states";
/// The output that was there before, between being moved aside and being removed.
const REPLACED: &str = "replaced";
/// A small file on its way to its place.
const DRAFT: &str = "draft";
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// What a plugin is at.
const AT_WORK: &str = "at-work";

/// The work folder, locked for this process.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    /// The output's place.
    target: PathBuf,
    /// Held for its lock; the system lets go of it when the process ends, however it ends.
    lock: File,
}

impl WorkFolder {
    /// Opens the work folder of a target, making it (and the target's folder) if it is not there.
    ///
    /// # Errors
    /// Fails when the disk refuses, or when another process works on the same output.
    pub fn open(target: &Target) -> Result<Self, Error> {
        let path = target.work_folder();
        loop {
            fs::create_dir_all(&path).map_err(Error::io("make the folder", &path))?;
            sync_folder(&target.folder)?;
            if let Some(lock) = lock(&path.join(LOCK), target)? {
                return Ok(Self { path, target: target.path(), lock });
            }
        }
    }

    /// Something in the way of a work folder that qhost has not made, if there is such a thing.
    #[must_use]
    pub fn foreign(path: &Path) -> Option<PathBuf> {
        let found = fs::symlink_metadata(path).ok()?;
        if !found.is_dir() {
            return Some(path.to_owned());
        }
        let ours = [FILES, BLOBS, STATES, REPLACED, DRAFT, JOURNAL, LOCK, AT_WORK];
        let entries = fs::read_dir(path).ok()?;
        entries
            .filter_map(Result::ok)
            .find(|entry| ours.iter().all(|name| entry.file_name() != *name))
            .map(|e| e.path())
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

    /// The folder of hidden states, for formats that are calibrated.
    #[must_use]
    pub fn states(&self) -> PathBuf {
        self.path.join(STATES)
    }

    /// Where an output that is to be replaced is moved.
    #[must_use]
    pub(super) fn replaced(&self) -> PathBuf {
        self.path.join(REPLACED)
    }

    /// The journal file.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        Self::journal_in(&self.path)
    }

    /// The file that tells what a plugin is at.
    #[must_use]
    pub fn at_work(&self) -> PathBuf {
        self.path.join(AT_WORK)
    }

    /// The journal file in a work folder.
    #[must_use]
    pub fn journal_in(work_folder: &Path) -> PathBuf {
        work_folder.join(JOURNAL)
    }

    /// Writes a small file so that under its name there is always either the old or the new content.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let draft = self.path.join(DRAFT);
        let write = || -> io::Result<()> {
            let mut file = File::create(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)
        };
        write().map_err(Error::io("write", path))
    }

    /// Throws everything away but the folder and its lock.
    ///
    /// The journal goes first: without it, nothing else in the folder means anything.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn clear(&self) -> Result<(), Error> {
        let replaced = self.replaced();
        if replaced.exists() && !self.target.exists() {
            // The run ended between moving the old output aside and putting the new one in place.
            fs::rename(&replaced, &self.target).map_err(Error::io("move back", &self.target))?;
        }
        remove(&self.journal())?;
        self.remove_all_but(&[])
    }

    /// Removes the folder.
    ///
    /// The journal goes after the rest, so that an interruption leaves a folder from which the next run
    /// sees that the work is finished; and what was saved goes after the journal, for the plan may hang on it. Without a
    /// journal nothing is left to be done: a folder that stays, because the disk refuses, another run has begun, or somebody
    /// has put something in, is no failure of this run.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn remove(self) -> Result<(), Error> {
        self.remove_all_but(&[self.blobs()])?;
        remove(&self.journal())?;
        let blobs = self.blobs();
        let Self { path, lock, .. } = self;
        let removed = remove(&blobs).and_then(|()| remove(&path.join(LOCK))).and_then(|()| {
            drop(lock);
            fs::remove_dir(&path).map_err(Error::io("remove", &path))
        });
        if let Err(error) = removed {
            tracing::debug!("{error}");
        }
        Ok(())
    }

    /// Removes everything but the journal, the lock, and what was saved, which the journal tells of.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn empty(&self) -> Result<(), Error> {
        self.remove_all_but(&[self.blobs()])
    }

    fn remove_all_but(&self, kept: &[PathBuf]) -> Result<(), Error> {
        let draft = self.path.join(DRAFT);
        let ours = [self.files(), self.blobs(), self.states(), self.replaced(), self.at_work(), draft];
        ours.iter().filter(|path| !kept.contains(path)).try_for_each(|path| remove(path))
    }
}

/// Removes a file, or a folder with all that is in it; what is not there is removed already.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(Error::io("remove", path)),
    }
}

/// Locks the file at `path`; gives none if another process has removed it meanwhile.
fn lock(path: &Path, target: &Target) -> Result<Option<File>, Error> {
    let lock = match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
        // The whole folder has gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io("write", path))?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(is_still_at(&lock, path).then_some(lock)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { path: target.path() }),
        // Some network disks have no locks: then the user has to take care.
        Err(TryLockError::Error(error)) => {
            tracing::debug!("{} cannot be locked: {error}", path.display());
            Ok(Some(lock))
        }
    }
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(open), Ok(there)) if place(&open) == place(&there))
}

#[cfg(not(unix))]
fn is_still_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::OutputKind;

    use super::*;

    fn target(folder: &Path) -> Target {
        Target { folder: folder.to_owned(), name: "x".into(), kind: OutputKind::Folder }
    }

    #[test]
    fn only_our_own_things_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(folder.path());
        let work = WorkFolder::open(&target).unwrap();
        fs::create_dir(work.files()).unwrap();
        fs::write(work.journal(), "").unwrap();
        assert_eq!(WorkFolder::foreign(work.path()), None);
        let notes = work.path().join("notes");
        fs::write(&notes, "mine").unwrap();
        assert_eq!(WorkFolder::foreign(work.path()), Some(notes.clone()));
        work.clear().unwrap();
        work.remove().unwrap();
        assert_eq!(fs::read(&notes).unwrap(), b"mine");
        fs::remove_file(notes).unwrap();
        WorkFolder::open(&target).unwrap().remove().unwrap();
        assert!(!target.work_folder().exists());
    }

    #[test]
    fn an_output_that_was_moved_aside_comes_back_when_the_new_one_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(folder.path());
        let work = WorkFolder::open(&target).unwrap();
        fs::create_dir(work.replaced()).unwrap();
        fs::write(work.replaced().join("old"), "").unwrap();
        work.clear().unwrap();
        assert!(target.path().join("old").exists());
    }

    #[test]
    fn a_lock_that_was_removed_under_its_holder_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(folder.path());
        let first = WorkFolder::open(&target).unwrap();
        assert!(matches!(WorkFolder::open(&target), Err(Error::Busy { .. })));
        let lock_path = first.path().join(LOCK);
        let stale = File::open(&lock_path).unwrap();
        first.remove().unwrap();
        let second = WorkFolder::open(&target).unwrap();
        assert!(!cfg!(unix) || !is_still_at(&stale, &lock_path));
        assert!(is_still_at(&second.lock, &lock_path));
    }
}
