//! Reading the header of one safetensors file.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use safetensors::{SafeTensorError, SafeTensors};

use super::{Error, Shard, StoredTensor};
use crate::stream::MappedFile;

/// The length of the number that a safetensors file starts with: the header's length.
const LENGTH_BYTES: u64 = 8;

/// Maps a file and lists its tensors in the order of their offsets.
pub(super) fn open(path: &Path, file_name: &str, index: usize) -> Result<(Shard, Vec<StoredTensor>), Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mapping = MappedFile::open(path).map_err(unreadable)?;
    let stamp = fs::metadata(path).and_then(|found| Ok((found.len(), found.modified()?))).map_err(unreadable)?;
    let (tensors, notes) = read_header(path, mapping.bytes(), index)?;
    Ok((Shard { file_name: file_name.to_owned(), notes, mapping: Arc::new(mapping), stamp, digest: None }, tensors))
}

/// Tensors, and the texts beside them.
type Header = (Vec<StoredTensor>, BTreeMap<String, String>);

fn read_header(path: &Path, bytes: &[u8], shard: usize) -> Result<Header, Error> {
    let damaged = |reason: String| Error::BadHeader { path: path.to_owned(), reason };
    let (header_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => Error::WrongLength {
            path: path.to_owned(),
            expected: announced_header_end(bytes),
            actual: bytes.len() as u64,
        },
        SafeTensorError::MetadataIncompleteBuffer => Error::WrongLength {
            path: path.to_owned(),
            expected: announced_end(bytes).unwrap_or(0),
            actual: bytes.len() as u64,
        },
        other => damaged(other.to_string()),
    })?;
    let data = LENGTH_BYTES + header_bytes as u64;
    let tensors = metadata.offset_keys().into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        Some(StoredTensor {
            shard,
            // The crate's dtypes print as the names in the file.
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            offset: data + start as u64,
            bytes: (end - start) as u64,
            name,
        })
    });
    let notes = metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((tensors.collect(), notes))
}

/// Where the header ends by the file's first eight bytes; saturates for a number that lies.
fn announced_header_end(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(LENGTH_BYTES, |length| u64::from_le_bytes(*length).saturating_add(LENGTH_BYTES))
}

/// Where the data end by the header, for a file whose header itself is sound.
fn announced_end(bytes: &[u8]) -> Option<u64> {
    let header_end = usize::try_from(announced_header_end(bytes)).ok()?;
    let metadata: safetensors::tensor::Metadata = serde_json::from_slice(bytes.get(8..header_end)?).ok()?;
    Some(header_end as u64 + metadata.data_len() as u64)
}
