//! Libraries that brought the process down, by their contents: they are not loaded again until somebody says so.
//!
//! One small JSON file for each, named by the SHA-256 of the library, in the user's data folder. It is written in the moment
//! of the crash (see `crash`), so here it is only read and removed.

use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

/// The folder with the verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    folder: PathBuf,
}

/// What is known of a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The plugin's id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its library, in hexadecimal.
    pub sha256: String,
    /// Where the library was.
    pub path: String,
    /// What it did, such as `crashed (invalid memory access)`.
    pub how: String,
    /// What it was called for, such as `while it made layer 2 of 5`.
    pub during: String,
    /// The tensor that it had last asked for.
    #[serde(default)]
    pub tensor: Option<String>,
}

impl Verdict {
    /// All of it in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { id, version, how, during, tensor, .. } = self;
        let at = tensor.as_ref().map(|tensor| format!(", at {tensor}")).unwrap_or_default();
        format!("the plugin `{id}` {version} {how} {during}{at}")
    }
}

/// Where a verdict is written, ready for a signal's handler.
#[derive(Debug)]
pub(super) struct Place {
    /// Folders to make first, from the outside to the inside.
    pub(super) folders: Vec<CString>,
    pub(super) file: CString,
}

impl Quarantine {
    /// That of this user.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        Some(Self::in_data(&etcetera::choose_base_strategy().ok()?.data_dir()))
    }

    /// That in a user's data folder.
    #[must_use]
    pub fn in_data(folder: &Path) -> Self {
        Self { folder: folder.join("qhost").join("quarantine") }
    }

    /// Whether there is no verdict at all, so that no library has to be digested to know.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.folder).map_or(true, |mut entries| entries.next().is_none())
    }

    /// What the library with this digest did.
    #[must_use]
    pub fn verdict(&self, sha256: &str) -> Option<Verdict> {
        let text = fs::read(self.file(sha256)).ok()?;
        // One that was cut short is a verdict all the same.
        Some(serde_json::from_slice(&text).unwrap_or_else(|_| Verdict {
            id: String::new(),
            version: String::new(),
            sha256: sha256.to_owned(),
            path: String::new(),
            how: "crashed".into(),
            during: "in an earlier run".into(),
            tensor: None,
        }))
    }

    /// Lets a library be loaded again; says whether there was a verdict.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn release(&self, sha256: &str) -> io::Result<bool> {
        match fs::remove_file(self.file(sha256)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn file(&self, sha256: &str) -> PathBuf {
        self.folder.join(sha256)
    }

    pub(super) fn place(&self, sha256: &str) -> Place {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let mut folders: Vec<_> = self.folder.ancestors().take(3).map(text).collect();
        folders.reverse();
        Place { folders, file: text(&self.file(sha256)) }
    }
}
