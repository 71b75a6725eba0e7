//! Opening safetensors files to look at them: whatever their names, with or without a config beside them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Checkpoint, Error, companions, folder, shard};

/// The ending of weight files.
const ENDING: &str = "safetensors";

/// Opens a weight file, or all of a folder; the config is null where there is none. Nothing of the weights
/// is read but the headers.
///
/// # Errors
/// Fails when nothing is there, or what is there is damaged.
pub fn look(path: &Path) -> Result<Checkpoint, Error> {
    let metadata = fs::metadata(path).map_err(|source| folder::missing(path, source))?;
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let root = fs::canonicalize(path).map_err(unreadable)?;
    if !metadata.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (shard, tensors) = shard::open(path, &name, 0)?;
        let (shards, companions) = (vec![shard], Vec::new());
        return Ok(Checkpoint { root, name, config: Value::Null, shards, tensors, companions, warnings: Vec::new() });
    }
    let mut warnings = Vec::new();
    let config = if root.join(folder::CONFIG).exists() {
        folder::read_config(&root)?
    } else {
        warnings.push(format!("there is no {} beside the weights", folder::CONFIG));
        Value::Null
    };
    let (shards, tensors) = if root.join(folder::SINGLE).exists() || root.join(folder::INDEX).exists() {
        folder::open_weights(&root, &mut warnings)?
    } else {
        let (mut shards, mut tensors) = (Vec::new(), Vec::new());
        for file in weight_files(&root).map_err(unreadable)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (shard, in_shard) = shard::open(&file, &name, shards.len())?;
            shards.push(shard);
            tensors.extend(in_shard);
        }
        warnings.push(format!(
            "neither {} nor {} is there: no loader would find the weights",
            folder::SINGLE,
            folder::INDEX
        ));
        (shards, tensors)
    };
    let companions = companions::list(&root).map_err(unreadable)?;
    Ok(Checkpoint { name: folder::name_of(path, &root), root, config, shards, tensors, companions, warnings })
}

/// Whether a path is a weight file of this kind, or a folder with any, or with the index of some.
#[must_use]
pub fn has_weights(path: &Path) -> bool {
    if path.is_dir() {
        path.join(folder::INDEX).exists() || weight_files(path).is_ok_and(|files| !files.is_empty())
    } else {
        path.extension().is_some_and(|ending| ending == ENDING)
    }
}

/// The weight files of a folder, sorted by name.
pub(super) fn weight_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
