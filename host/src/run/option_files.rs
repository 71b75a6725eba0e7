//! Files that the user names with an option: lent to the plugin beside the model's small files, each under the option's
//! name (`--imatrix`).
//!
//! It knows which options may name a file, and nothing of what is in one.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::Options;
use xxhash_rust::xxh3::Xxh3;

use super::{Error, files::Companion};

/// The option whose value is a file, unless it is this word.
const IMATRIX: (&str, &str) = ("--imatrix", "auto");

/// The files, and a digest of what is in them.
#[derive(Debug, Default)]
pub(super) struct OptionFiles {
    files: Vec<Companion>,
    path: PathBuf,
    digest: String,
}

impl OptionFiles {
    /// Those that the options name.
    ///
    /// # Errors
    /// Fails when one cannot be read.
    pub(super) fn of(options: &Options) -> Result<Self, Error> {
        let (flag, word) = IMATRIX;
        let Some(path) = options.imatrix.as_deref().filter(|value| *value != word) else { return Ok(Self::default()) };
        let path = Path::new(path);
        let unreadable = |source| Error::OptionFile { flag, path: path.to_owned(), source };
        let file = Companion::at(flag, path).map_err(unreadable)?;
        let digest = digest(path).map_err(unreadable)?;
        Ok(Self { files: vec![file], path: path.to_owned(), digest })
    }

    /// They, to be lent.
    pub(super) fn files(&self) -> impl Iterator<Item = Companion> {
        self.files.iter().cloned()
    }

    /// What is in them, as far as it matters to the work that was done with them; empty without any.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether that is still in them.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(self.files.is_empty() || digest(&self.path)? == self.digest)
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut digest, mut buffer) = (Xxh3::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", digest.digest128())),
            read => digest.update(&buffer[..read]),
        }
    }
}
