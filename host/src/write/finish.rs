//! Putting finished work in its place in one step.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::OutputKind;

use super::{Error, ReservedFiles, Target, WorkFolder};

/// Moves the finished files from the work folder to the target, replacing what is there.
///
/// A file replaces a file in one step. A folder cannot: the old one is moved aside first and removed
/// last, so that at no time a half-written one has the final name.
///
/// # Errors
/// Fails when the disk refuses.
pub fn publish(work: &WorkFolder, target: &Target) -> Result<(), Error> {
    let path = target.path();
    let finished = unpublished(work.path(), target.kind);
    let aside = aside(&path);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
        fs::rename(&path, &aside).map_err(Error::io("move aside", &path))?;
    }
    fs::rename(&finished, &path).map_err(Error::io("move the finished output to", &path))?;
    sync_folder(&target.folder)?;
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))?;
    }
    Ok(())
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

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".replaced");
    path.with_file_name(name)
}

/// Writes a small file so that under its name there is always either the old or the new content.
///
/// # Errors
/// Fails when the disk refuses.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        Error::Io { action: "write", path: path.to_owned(), source }
    })
}

/// Makes renames in a folder durable, where the system can.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder))
}
