//! The targets, by what they read.

pub mod checkpoint;
pub mod data;
pub mod plugin;
pub mod tokenizer;
pub mod work;

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::SEPARATOR;

thread_local! {
    /// A folder of this thread's, for readers of files.
    static FOLDER: Option<TempDir> = tempfile::tempdir().ok();
}

/// Calls with a folder that holds these files, and whatever others earlier calls have put there.
#[expect(clippy::panic, reason = "without a disk nothing is tested")]
fn with_files<T>(files: &[(&str, &[u8])], call: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        let Some(folder) = folder else { panic!("there is no temporary folder") };
        for (name, bytes) in files {
            if let Err(error) = fs::write(folder.path().join(name), bytes) {
                panic!("{name}: {error}");
            }
        }
        call(folder.path())
    })
}

/// The files of an input, as many as are asked for: those that are missing are empty, and the last has all the rest.
fn files_of<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
