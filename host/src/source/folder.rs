//! Opening a local checkpoint folder, sharded or not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Component, Path},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{Checkpoint, Error, Shard, StoredTensor, companions, shard};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

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
    let (shards, tensors) = open_weights(&root)?;
    let companions = companions::list(&root).map_err(unreadable)?;
    let name = root.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(Checkpoint { root, name, config, shards, tensors, companions })
}

/// Tells an absent folder from a name that would be looked up on a hub.
fn missing(path: &Path, source: io::Error) -> Error {
    if source.kind() != io::ErrorKind::NotFound {
        return Error::Unreadable { path: path.to_owned(), source };
    }
    let names: Vec<_> = path.components().collect();
    match (names.as_slice(), path.to_str()) {
        ([Component::Normal(_), Component::Normal(_)], Some(id)) if !Path::new(names[0].as_os_str()).exists() => {
            Error::HubId { id: id.to_owned() }
        }
        _ => Error::Missing { path: path.to_owned() },
    }
}

fn read_config(root: &Path) -> Result<serde_json::Value, Error> {
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

fn open_weights(root: &Path) -> Result<(Vec<Shard>, Vec<StoredTensor>), Error> {
    if root.join(INDEX).exists() {
        open_sharded(root)
    } else if root.join(SINGLE).exists() {
        let (shard, tensors) = shard::open(&root.join(SINGLE), SINGLE, 0)?;
        Ok((vec![shard], tensors))
    } else {
        Err(Error::NoWeights { root: root.to_owned(), pickle: find_pickle(root) })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_sharded(root: &Path) -> Result<(Vec<Shard>, Vec<StoredTensor>), Error> {
    let index: Index = read_json(&root.join(INDEX))?;
    let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if let Some(file) = files.iter().find(|file| !is_plain_name(file)) {
        return Err(Error::BadJson {
            path: root.join(INDEX),
            reason: format!("`{file}` is not the name of a file beside it"),
        });
    }
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

fn find_pickle(root: &Path) -> Option<String> {
    let names = fs::read_dir(root).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.into_iter().find(|name| {
        let path = Path::new(name);
        ["bin", "pt", "pth"].iter().any(|ending| path.extension().is_some_and(|found| found == *ending))
    })
}
