//! Putting finished work in its place in one step.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::OutputKind;

use super::{Error, ReservedFiles, Target, WorkFolder};

/// Moves the finished files from the work folder to the target, replacing what is there if `force`.
///
/// A file replaces a file in one step. A folder cannot: the old one is first moved into the work
/// folder, so that at no time a half-written one has the final name.
///
/// # Errors
/// Fails when something is there and may not be replaced, or when the disk refuses.
pub fn publish(work: &WorkFolder, target: &Target, force: bool) -> Result<(), Error> {
    let path = target.path();
    let finished = unpublished(work.path(), target.kind);
    let mut aside = false;
    if target.is_occupied() {
        if !force {
            return Err(Error::Appeared { path });
        }
        if target.kind == OutputKind::Folder {
            fs::rename(&path, work.replaced()).map_err(Error::io("move aside", &path))?;
            aside = true;
        }
    }
    if target.kind == OutputKind::Folder {
        sync_folder(&finished)?;
    }
    let placed = fs::rename(&finished, &path);
    if placed.is_err() && aside {
        // The old one is better than none; if it cannot be moved back either, the next run does it.
        let _ = fs::rename(work.replaced(), &path);
    }
    placed.map_err(Error::io("move the finished output to", &path))?;
    sync_folder(&target.folder)
}

/// What [`publish`] moves out of a work folder.
#[must_use]
pub fn unpublished(work_folder: &Path, kind: OutputKind) -> PathBuf {
    let files = WorkFolder::files_in(work_folder);
    match kind {
        OutputKind::File => ReservedFiles::path_of(&files, ""),
        _ => files,
    }
}

/// Makes what was made or renamed in a folder durable, where the system can.
///
/// # Errors
/// Fails when the disk refuses.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder))
}
