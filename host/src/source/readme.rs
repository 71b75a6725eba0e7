//! The model card of a checkpoint, as text.
//!
//! It is no companion: formats have no use for it, and it may change without changing an output.

use std::{fs::File, io::Read, path::Path};

const README: &str = "README.md";

/// So much of it is read; what a hub reads of a card stands at its top.
const READ: u64 = 256 << 10;

/// The card's text, if there is one.
#[must_use]
pub fn readme(root: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(root.join(README)).and_then(|file| file.take(READ).read_to_end(&mut bytes)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
