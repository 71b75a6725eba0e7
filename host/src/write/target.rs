//! Where an output goes, and what is so there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::OutputKind;

use crate::plan::Facts;

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

    /// What to tell a user who seems to have named a file where a folder is asked for.
    #[must_use]
    pub fn misnamed(&self) -> Option<String> {
        let extension = Path::new(&self.name).extension().filter(|_| self.kind == OutputKind::File)?;
        (self.folder.extension() == Some(extension) && !self.folder.is_dir())
            .then(|| format!("-o names a folder, which will be made: the output is {}", self.path().display()))
    }

    /// The folder that holds the work until it is finished.
    #[must_use]
    pub fn work_folder(&self) -> PathBuf {
        self.folder.join(format!("{}.partial", self.name))
    }
}

/// Gathers what the plan has to know about the target.
#[must_use]
pub fn survey(target: &Target, source: &Path, force: bool, memory_limit: Option<u64>) -> Facts {
    let path = target.path();
    let existing = nearest_existing(&target.folder);
    let inside_source = existing
        .as_ref()
        .and_then(|folder| fs::canonicalize(folder).ok())
        .is_some_and(|folder| folder.starts_with(source));
    Facts {
        exists: fs::symlink_metadata(&path).is_ok(),
        force,
        inside_source,
        free: existing.and_then(|folder| fs4::available_space(folder).ok()),
        reserved: reserved_by_earlier_run(&target.work_folder()),
        memory_limit,
        output: path,
    }
}

/// The folder itself, or the closest one above it that is there already.
fn nearest_existing(folder: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(folder).ok()?;
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned)
}

fn reserved_by_earlier_run(work_folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(super::WorkFolder::files_in(work_folder)) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).fold(0, u64::saturating_add)
}
