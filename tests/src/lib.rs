//! What the black-box tests share: running the built executable, and making checkpoints.
//!
//! It knows the command line and the checkpoint format as a user does, and nothing of the host's
//! insides.

pub mod checkpoint;
pub mod command;
pub mod hub;
pub mod torture;

use std::path::{Path, PathBuf};

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// A folder of `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    repository().join("tests").join("fixtures").join(name)
}
