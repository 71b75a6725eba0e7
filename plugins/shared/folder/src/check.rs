//! Reading a finished folder back, as a loader would.

use std::collections::BTreeMap;

use qhost_plugin_api::{
    documents::Check,
    sdk::{Failure, FilesHandle, Result},
};
use serde::Deserialize;

use crate::{INDEX, Layout, Tensor};

/// What a header says of a tensor.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Holds headers and index of finished files against the layout.
///
/// # Errors
/// Fails when a file cannot be read.
pub fn check_headers(files: &FilesHandle, layout: &Layout, tensors: &[Tensor]) -> Result<Check> {
    let mut seen = 0;
    for (number, shard) in (0..).zip(&layout.shards) {
        if files.length(&shard.name) != Some(shard.bytes) {
            return Ok(failed(&shard.name, &format!("it has not {} bytes", shard.bytes)));
        }
        let mut prefix = [0; 8];
        files.read_exact(&shard.name, 0, &mut prefix)?;
        let length = u64::from_le_bytes(prefix);
        if length + 8 != shard.header.len() as u64 {
            return Ok(failed(&shard.name, &format!("its header has {length} bytes")));
        }
        let mut text = vec![0; shard.header.len() - 8];
        files.read_exact(&shard.name, 8, &mut text)?;
        let header: BTreeMap<String, serde_json::Value> = match serde_json::from_slice(&text) {
            Ok(header) => header,
            Err(error) => return Ok(failed(&shard.name, &format!("its header is not JSON: {error}"))),
        };
        let placed = tensors.iter().zip(&layout.places).filter(|(_, place)| place.shard == number);
        for (tensor, place) in placed {
            let entry = header.get(&tensor.name).and_then(|entry| Entry::deserialize(entry).ok());
            let start = place.offset - shard.header.len() as u64;
            let right = entry.is_some_and(|entry| {
                let at = entry.data_offsets == [start, start + place.bytes];
                at && entry.dtype == tensor.dtype && entry.shape == tensor.shape
            });
            if !right {
                return Ok(failed(&shard.name, &format!("its header does not have {} as planned", tensor.name)));
            }
            seen += 1;
        }
    }
    if layout.index.is_some() {
        let index: serde_json::Value = match files.read_json(INDEX)? {
            Some(index) => index,
            None => return Ok(failed(INDEX, "there is none")),
        };
        for (tensor, place) in tensors.iter().zip(&layout.places) {
            let shard = layout.shards.get(place.shard as usize).map(|shard| shard.name.as_str());
            if index["weight_map"][tensor.name.as_str()].as_str() != shard {
                return Ok(failed(INDEX, &format!("{} is not where it says", tensor.name)));
            }
        }
    }
    let files = layout.shards.len();
    Ok(Check::passed(
        "structure",
        format!("{seen} tensors in {files} safetensors {}", if files == 1 { "file" } else { "files" }),
    ))
}

fn failed(file: &str, what: &str) -> Check {
    Check::failed("structure", format!("{file}: {what}"))
}

/// The bytes of a tensor of a finished folder.
///
/// # Errors
/// Fails when the file cannot be read.
pub fn read_segment(files: &FilesHandle, layout: &Layout, tensor: usize) -> Result<Vec<u8>> {
    let place = layout.places.get(tensor).ok_or_else(|| Failure::internal(format!("there is no tensor {tensor}")))?;
    let shard = layout.shards.get(place.shard as usize).ok_or_else(|| Failure::internal("there is no such file"))?;
    let mut bytes = vec![0; usize::try_from(place.bytes).map_err(|_| Failure::internal("too large"))?];
    files.read_exact(&shard.name, place.offset, &mut bytes)?;
    Ok(bytes)
}
