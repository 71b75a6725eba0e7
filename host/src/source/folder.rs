//! Opening a local checkpoint folder, sharded or not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Component, Path},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{Checkpoint, Error, Shard, StoredTensor, companions, shard};

pub(super) const CONFIG: &str = "config.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Endings of weight files that run code when they are loaded.
pub(super) const PICKLES: [&str; 3] = ["bin", "pt", "pth"];

/// Opens the folder at `path`; nothing of the weights is read but the headers.
///
/// # Errors
/// Fails when the folder is absent, incomplete or damaged; see [`Error`].
pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    let metadata = fs::metadata(path).map_err(|source| missing(path, source))?;
    if !metadata.is_dir() {
        return Err(Error::NotAFolder { path: path.to_owned() });
    }
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let root = fs::canonicalize(path).map_err(unreadable)?;
    let config = read_config(&root)?;
    let mut warnings = Vec::new();
    let (shards, tensors) = open_weights(&root, &mut warnings)?;
    let companions = companions::list(&root).map_err(unreadable)?;
    Ok(Checkpoint { name: name_of(path, &root), root, config, shards, tensors, companions, warnings })
}

/// The folder's name as the user wrote it; where that tells nothing (`.`, `..`), its name on the disk.
pub(super) fn name_of(given: &Path, root: &Path) -> String {
    let absolute = std::path::absolute(given).ok();
    let name = absolute.as_deref().and_then(Path::file_name).or_else(|| root.file_name());
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Tells an absent folder from one that cannot be read.
pub(super) fn missing(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => Error::Unreadable { path: path.to_owned(), source },
    }
}

pub(super) fn read_config(root: &Path) -> Result<serde_json::Value, Error> {
    let path = root.join(CONFIG);
    if !path.exists() {
        return Err(Error::NoConfig { root: root.to_owned() });
    }
    let config: serde_json::Value = read_json(&path)?;
    if config.is_object() { Ok(config) } else { Err(Error::BadJson { path, reason: "it is not an object".into() }) }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| Error::BadJson { path: path.to_owned(), reason: error.to_string() })
}

pub(super) fn open_weights(root: &Path, warnings: &mut Vec<String>) -> Result<(Vec<Shard>, Vec<StoredTensor>), Error> {
    // The single file comes first, as it does for transformers.
    let (single, sharded) = (root.join(SINGLE).exists(), root.join(INDEX).exists());
    if single {
        let (shard, tensors) = shard::open(&root.join(SINGLE), SINGLE, 0)?;
        if sharded {
            warnings.push(format!("{SINGLE} is read, and {INDEX} with its shards is not, as transformers does it"));
        }
        Ok((vec![shard], tensors))
    } else if sharded {
        open_sharded(root)
    } else {
        let pickle = find(root, &PICKLES);
        Err(Error::NoWeights { root: root.to_owned(), pickle, other: find(root, &["safetensors"]) })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the weight files that the index in `root` speaks of.
///
/// # Errors
/// Fails when the index cannot be read, or speaks of files that are not beside it.
pub fn shards_in_index(root: &Path) -> Result<BTreeSet<String>, Error> {
    Ok(files_of(&read_index(root)?).into_iter().map(str::to_owned).collect())
}

fn files_of(index: &Index) -> BTreeSet<&str> {
    index.weight_map.values().map(String::as_str).collect()
}

fn read_index(root: &Path) -> Result<Index, Error> {
    let path = root.join(INDEX);
    let index: Index = read_json(&path)?;
    match index.weight_map.values().find(|file| !is_plain_name(file)) {
        Some(file) => Err(Error::BadJson { path, reason: format!("`{file}` is not the name of a file beside it") }),
        None => Ok(index),
    }
}

fn open_sharded(root: &Path) -> Result<(Vec<Shard>, Vec<StoredTensor>), Error> {
    let index = read_index(root)?;
    let files = files_of(&index);
    let mut shards = Vec::new();
    let mut tensors: Vec<StoredTensor> = Vec::new();
    for file in files {
        let path = root.join(file);
        if !path.exists() {
            return Err(Error::MissingShard { path });
        }
        let (shard, in_shard) = shard::open(&path, file, shards.len())?;
        shards.push(shard);
        tensors.extend(in_shard);
    }
    let mut home: HashMap<&str, usize> = HashMap::new();
    for tensor in &tensors {
        if let Some(first) = home.insert(&tensor.name, tensor.shard) {
            return Err(Error::Duplicate {
                tensor: tensor.name.clone(),
                first: shards[first].file_name.clone(),
                second: shards[tensor.shard].file_name.clone(),
            });
        }
    }
    for (tensor, file) in &index.weight_map {
        if home.get(tensor.as_str()).is_none_or(|&shard| shards[shard].file_name != *file) {
            return Err(Error::NotInShard { tensor: tensor.clone(), file: file.clone() });
        }
    }
    Ok((shards, tensors))
}

/// Whether an index entry stays within the folder.
fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

/// A file with one of these endings.
fn find(root: &Path, endings: &[&str]) -> Option<String> {
    let names = fs::read_dir(root).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let has_ending =
        |name: &String| Path::new(name).extension().is_some_and(|found| endings.iter().any(|e| found == *e));
    names.filter(has_ending).min()
}
