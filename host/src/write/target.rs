//! Where an output goes, and what is so there.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use qhost_plugin_api::documents::OutputKind;

use super::WorkFolder;
use crate::plan::Place;

/// The place of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The folder that the user chose.
    pub folder: PathBuf,
    /// The name of the file or folder in it.
    pub name: String,
    /// Which of the two it is.
    pub kind: OutputKind,
}

impl Target {
    /// The finished output.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The folder that holds the work until it is finished.
    #[must_use]
    pub fn work_folder(&self) -> PathBuf {
        self.folder.join(format!("{}.partial", self.name))
    }

    /// Whether something is in the output's place.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        fs::symlink_metadata(self.path()).is_ok()
    }

    /// What to tell a user who seems to have named a file where a folder is asked for.
    #[must_use]
    pub fn misnamed(&self) -> Option<String> {
        let extension = Path::new(&self.name).extension().filter(|_| self.kind == OutputKind::File)?;
        (self.folder.extension() == Some(extension) && !self.folder.is_dir())
            .then(|| format!("-o names a folder, which will be made: the output is {}", self.path().display()))
    }
}

/// Looks at the place of an output.
#[must_use]
pub fn survey(target: &Target, source: &Path) -> Place {
    let existing = nearest_existing(&target.folder);
    let found = fs::symlink_metadata(target.path()).ok();
    Place {
        output: target.path(),
        exists: found.is_some(),
        other_kind: found.is_some_and(|found| found.is_dir() != (target.kind == OutputKind::Folder)),
        inside_source: existing.as_ref().is_some_and(|folder| folder.starts_with(source)),
        foreign: WorkFolder::foreign(&target.work_folder()),
        free: existing.and_then(|folder| free_space(&folder)),
        reserved: reserved_by_earlier_run(&target.work_folder()),
    }
}

/// Bytes free where a folder is or will be, if that can be told.
#[must_use]
pub fn free_at(folder: &Path) -> Option<u64> {
    nearest_existing(folder).and_then(|folder| free_space(&folder))
}

/// Whether two folders that are or will be there share their free space. Where that cannot be told, they do.
#[must_use]
pub fn same_disk(one: &Path, other: &Path) -> bool {
    match (nearest_existing(one).and_then(device), nearest_existing(other).and_then(device)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

#[cfg(unix)]
fn device(folder: PathBuf) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(folder).ok().map(|found| found.dev())
}

#[cfg(not(unix))]
fn device(folder: PathBuf) -> Option<std::ffi::OsString> {
    match folder.components().next() {
        Some(Component::Prefix(disk)) => Some(disk.as_os_str().to_owned()),
        _ => None,
    }
}

/// The folder itself, or the closest one above it that is there already, free of links.
fn nearest_existing(folder: &Path) -> Option<PathBuf> {
    let mut nearest = PathBuf::new();
    for component in std::path::absolute(folder).ok()?.components() {
        match component {
            // What is not there yet will be a plain folder, so its parent is known.
            Component::ParentDir => drop(nearest.pop()),
            component => nearest.push(component),
        }
        // Step by step, so that the parent of a link is that of the folder it leads to.
        if let Ok(real) = fs::canonicalize(&nearest) {
            nearest = real;
        }
    }
    nearest.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned)
}

/// Bytes free, unless the file system counts none, as those that are not on a disk do.
fn free_space(folder: &Path) -> Option<u64> {
    let stats = fs4::statvfs(folder).ok()?;
    (stats.total_space() > 0).then(|| stats.available_space())
}

/// Blocks, not lengths: where a disk can set no blocks aside, a file's length says nothing.
fn reserved_by_earlier_run(work_folder: &Path) -> u64 {
    use fs4::FileExt as _;
    let Ok(entries) = fs::read_dir(WorkFolder::files_in(work_folder)) else { return 0 };
    let allocated = |entry: fs::DirEntry| fs::File::open(entry.path()).ok()?.allocated_size().ok();
    entries.filter_map(|entry| allocated(entry.ok()?)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_nearest_folder_is_found_through_links_and_dots() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("model/deep")).unwrap();
        fs::create_dir(root.join("out")).unwrap();
        std::os::unix::fs::symlink(root.join("model/deep"), root.join("out/link")).unwrap();
        for (given, nearest) in [
            ("out", "out"),
            ("out/new/newer", "out"),
            ("out/new/../../model", "model"),
            ("out/new/../../model/x", "model"),
            ("model/new/../../out", "out"),
            ("out/link/..", "model"),
            ("out/link/../x", "model"),
        ] {
            assert_eq!(nearest_existing(&root.join(given)), Some(root.join(nearest)), "{given}");
        }
    }
}
