//! Telling whether a source is still the one that a checkpoint of our work was made from.
//!
//! Weights are not read for it: length, modification time and header stand for them, as they do
//! for build tools; where a digest of them is known, it stands for them in place of the time.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::Checkpoint;
use crate::text::{about, nanoseconds};

/// A digest of everything that the output depends on in the source, in hexadecimal.
///
/// Of the companions, the names of all count, and the contents of those that were `read`: a log that
/// grows beside the weights changes nothing.
///
/// # Errors
/// Fails when a file has gone or cannot be read.
pub fn fingerprint(checkpoint: &Checkpoint, read: &BTreeSet<String>) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    add(checkpoint.config.to_string().as_bytes());
    for shard in &checkpoint.shards {
        add(shard.file_name.as_bytes());
        if let Some(digest) = &shard.digest {
            add(&shard.stamp.0.to_le_bytes());
            add(digest.as_bytes());
            continue;
        }
        let path = checkpoint.root.join(&shard.file_name);
        let metadata = fs::metadata(&path).map_err(about(&path))?;
        add(&metadata.len().to_le_bytes());
        add(&nanoseconds(metadata.modified()?).to_le_bytes());
    }
    for tensor in &checkpoint.tensors {
        add(format!("{} {} {:?} {} {}", tensor.name, tensor.dtype, tensor.shape, tensor.shard, tensor.offset)
            .as_bytes());
    }
    for companion in &checkpoint.companions {
        add(companion.name.as_bytes());
        if read.contains(&companion.name) {
            add(&digest_of(&companion.path).map_err(about(&companion.path))?);
        }
    }
    Ok(crate::text::hex(&digest.finalize()))
}

/// Whether the weight files are as they were when they were opened, by length and modification time.
///
/// # Errors
/// Fails when a file has gone or cannot be read.
pub fn is_unchanged(checkpoint: &Checkpoint) -> io::Result<bool> {
    for shard in &checkpoint.shards {
        let path = checkpoint.root.join(&shard.file_name);
        let metadata = fs::metadata(&path).map_err(about(&path))?;
        if (metadata.len(), metadata.modified()?) != shard.stamp {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The SHA-256 of a file's bytes, read in pieces.
fn digest_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut digest = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    loop {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            return Ok(digest.finalize().to_vec());
        }
        digest.update(piece);
        let length = piece.len();
        file.consume(length);
    }
}
