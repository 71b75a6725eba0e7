//! Reading the safetensors files of a folder, and the index over them: names, dtypes, shapes and where the data lie.
//!
//! Files may come from anywhere, so every number in a header is held against the file before it is used. Weights are
//! not touched. It knows nothing of what tensors are for.

use std::collections::{BTreeMap, HashMap};

use qhost_plugin_api::sdk::{Failure, FileView, Result};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::Value;

/// The ending of files with weights.
const ENDING: &str = ".safetensors";
/// The name of the index.
const INDEX: &str = "model.safetensors.index.json";
/// What damaged files usually come from.
const FETCH_AGAIN: &str = "the download is probably incomplete: fetch the file again";

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// Its name.
    pub name: String,
    /// How an element is stored: a safetensors dtype name.
    pub dtype: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// The index of its file among those that were given.
    pub file: usize,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length; it agrees with shape and dtype, and ends within the file.
    pub bytes: u64,
}

/// The files of a folder, read as far as the headers.
#[derive(Debug)]
pub struct Folder<'a> {
    files: Vec<FileView<'a>>,
    /// By file, and then by place.
    tensors: Vec<StoredAt>,
    by_name: HashMap<String, usize>,
}

impl<'a> Folder<'a> {
    /// Reads the headers of all files with weights among these, and holds the index against them if it is there.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming file and tensor, when a header lies, a file is cut short, a tensor is there
    /// twice, or the index speaks of what is not there.
    pub fn read(files: &[FileView<'a>]) -> Result<Self> {
        let mut folder = Self { files: files.to_vec(), tensors: Vec::new(), by_name: HashMap::new() };
        for (index, file) in files.iter().enumerate().filter(|(_, file)| file.name.ends_with(ENDING)) {
            for tensor in header(file, index)? {
                if let Some(first) = folder.by_name.insert(tensor.name.clone(), folder.tensors.len()) {
                    let other = files[folder.tensors[first].file].name;
                    return Err(Failure::corrupt(format!("is in {other} as well"))
                        .about(format!("{}: {}", file.name, tensor.name)));
                }
                folder.tensors.push(tensor);
            }
        }
        folder.check_index()?;
        if folder.tensors.is_empty() {
            return Err(Failure::corrupt("no file has a tensor").hint(FETCH_AGAIN));
        }
        Ok(folder)
    }

    /// The tensors, in the order of the files.
    #[must_use]
    pub fn tensors(&self) -> &[StoredAt] {
        &self.tensors
    }

    /// The tensor of a name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&StoredAt> {
        self.by_name.get(name).and_then(|index| self.tensors.get(*index))
    }

    /// The data of a tensor.
    #[must_use]
    pub fn data(&self, tensor: &StoredAt) -> &'a [u8] {
        let bytes = self.files.get(tensor.file).map_or(&[][..], |file| file.bytes);
        let start = usize::try_from(tensor.offset).unwrap_or(usize::MAX);
        let length = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        bytes.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default()
    }

    /// The bytes of all files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<&'a [u8]> {
        self.files.iter().map(|file| file.bytes).collect()
    }

    /// The name of a file.
    #[must_use]
    pub fn file_name(&self, index: usize) -> &'a str {
        self.files.get(index).map_or("", |file| file.name)
    }

    /// Every tensor that the index names is in the file that it names.
    fn check_index(&self) -> Result<()> {
        let Some(index) = json(&self.files, INDEX)? else { return Ok(()) };
        let damaged = |what: String| Failure::corrupt(what).about(INDEX).hint(FETCH_AGAIN);
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| damaged("has no object `weight_map`".into()))?;
        let there: BTreeMap<&str, usize> = self.files.iter().enumerate().map(|(at, file)| (file.name, at)).collect();
        for (tensor, file) in map {
            let file = file.as_str().ok_or_else(|| damaged(format!("gives no file for {tensor}")))?;
            let Some(at) = there.get(file) else {
                return Err(damaged(format!("says that {tensor} is in {file}, which is not there")));
            };
            if self.tensor(tensor).is_none_or(|found| found.file != *at) {
                return Err(damaged(format!("says that {tensor} is in {file}, and it is not")));
            }
        }
        Ok(())
    }
}

/// The contents of a JSON file among these, if it is there.
///
/// # Errors
/// Fails with kind `CORRUPT`, naming the file, when it is no JSON.
pub fn json(files: &[FileView<'_>], name: &str) -> Result<Option<Value>> {
    let file = files.iter().find(|file| file.name == name);
    let parsed = file.map(|file| serde_json::from_slice(file.bytes)).transpose();
    parsed.map_err(|error| Failure::corrupt(format!("is not JSON: {error}")).about(name).hint(FETCH_AGAIN))
}

/// The tensors of one file, in the order of their data.
fn header(file: &FileView<'_>, index: usize) -> Result<Vec<StoredAt>> {
    // The crate holds lengths, overlaps, gaps, and shapes against dtypes; it reads nothing but the header.
    let (header_bytes, metadata) = SafeTensors::read_metadata(file.bytes).map_err(|error| damaged(file, &error))?;
    let data = 8 + header_bytes as u64;
    let tensors = metadata.offset_keys().into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        Some(StoredAt {
            // The crate's dtypes print as the names in the file.
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            file: index,
            offset: data + start as u64,
            bytes: (end - start) as u64,
            name,
        })
    });
    Ok(tensors.collect())
}

/// What is wrong with a file, with the tensor that it is wrong with, where one can be named.
fn damaged(file: &FileView<'_>, error: &SafeTensorError) -> Failure {
    let length = file.bytes.len() as u64;
    let announced = file.bytes.first_chunk::<8>().map_or(0, |raw| u64::from_le_bytes(*raw));
    let (subject, what) = match error {
        SafeTensorError::HeaderTooSmall => (None, format!("is {length} bytes long, too short for a header")),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            (None, format!("says that its header takes {announced} bytes, and is {length} bytes long"))
        }
        SafeTensorError::MetadataIncompleteBuffer => match last(file.bytes) {
            Some((tensor, end)) if end > length => {
                (Some(tensor), format!("ends at byte {end}, and the file is {length} bytes long"))
            }
            Some((_, end)) => (None, format!("goes on for {} bytes after its last tensor", length - end)),
            None => (None, error.to_string()),
        },
        SafeTensorError::InvalidOffset(tensor) => {
            (Some(tensor.clone()), "has an impossible place: it overlaps another, or leaves a gap before it".into())
        }
        other => (None, format!("has a damaged header: {other}")),
    };
    let subject = subject.map_or_else(|| file.name.to_owned(), |tensor| format!("{}: {tensor}", file.name));
    Failure::corrupt(what).about(subject).hint(FETCH_AGAIN)
}

/// The tensor whose data end last by a header that is itself sound, and where.
fn last(bytes: &[u8]) -> Option<(String, u64)> {
    let header_end = u64::from_le_bytes(*bytes.first_chunk::<8>()?).checked_add(8)?;
    let header: Value = serde_json::from_slice(bytes.get(8..usize::try_from(header_end).ok()?)?).ok()?;
    let ends = header.as_object()?.iter().filter_map(|(name, info)| {
        Some((name.clone(), info.get("data_offsets")?.get(1)?.as_u64()?.checked_add(header_end)?))
    });
    ends.max_by_key(|(_, end)| *end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(header: &Value, data: usize) -> Vec<u8> {
        let text = header.to_string();
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; data]].concat()
    }

    fn sound() -> Vec<u8> {
        let tensor = |start: u64, end: u64| json!({"dtype": "I32", "shape": [1, 2], "data_offsets": [start, end]});
        file(&json!({"__metadata__": {"format": "pt"}, "a": tensor(0, 8), "b": tensor(8, 16)}), 16)
    }

    fn refused(files: &[(&str, &[u8])]) -> String {
        let views: Vec<_> = files.iter().map(|&(name, bytes)| FileView { name, bytes }).collect();
        Folder::read(&views).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_found_by_name_with_their_data() {
        let mut bytes = sound();
        let at = bytes.len() - 8;
        bytes[at] = 7;
        let view = [FileView { name: "model.safetensors", bytes: &bytes }, FileView { name: "x.json", bytes: b"[" }];
        let folder = Folder::read(&view).unwrap();
        let tensor = folder.tensor("b").unwrap();
        assert_eq!((&*tensor.dtype, &*tensor.shape, tensor.bytes), ("I32", &[1, 2][..], 8));
        assert_eq!(folder.data(tensor), [7, 0, 0, 0, 0, 0, 0, 0]);
        assert!(folder.tensor("c").is_none());
        assert!(json(&view, "x.json").unwrap_err().to_string().contains("x.json"));
    }

    #[test]
    fn files_that_lie_are_refused_by_name() {
        let whole = sound();
        let cut = refused(&[("m.safetensors", &whole[..whole.len() - 4])]);
        assert!(cut.contains("m.safetensors: b") && cut.contains("long"), "{cut}");
        let longer = refused(&[("m.safetensors", &[&whole[..], &[0; 3]].concat())]);
        assert!(longer.contains("3 bytes after"), "{longer}");
        for header in [0_u64, 9, 1 << 20, 1 << 40, u64::MAX] {
            let told = refused(&[("m.safetensors", &[&header.to_le_bytes()[..], &whole[8..]].concat())]);
            assert!(told.contains("m.safetensors"), "{header}: {told}");
        }
        let place = |start: u64, end: u64| json!({"dtype": "I32", "shape": [1, 2], "data_offsets": [start, end]});
        for (header, tensor) in [
            (json!({"a": place(0, 8), "b": place(4, 12)}), "b"),
            (json!({"a": place(0, 8), "b": place(12, 20)}), "b"),
            (json!({"a": place(0, 8), "b": place(16, 8)}), ""),
            (json!({"a": {"dtype": "I32", "shape": [1, u64::MAX / 2], "data_offsets": [0, 8]}}), ""),
            (json!({"a": {"dtype": "I32", "shape": [9, 9], "data_offsets": [0, 8]}}), ""),
            (json!({"a": {"dtype": "I33", "shape": [1], "data_offsets": [0, 8]}}), ""),
        ] {
            let told = refused(&[("m.safetensors", &file(&header, 20))]);
            assert!(told.contains("m.safetensors") && told.contains(tensor), "{header}: {told}");
        }
        assert!(refused(&[("a.safetensors", &whole), ("b.safetensors", &whole)]).contains("b.safetensors: a"));
    }

    #[test]
    fn an_index_that_speaks_of_what_is_not_there_is_refused() {
        let whole = sound();
        let with = |index: &Value| {
            let text = index.to_string();
            let files = [("m.safetensors", &whole[..]), (INDEX, text.as_bytes())];
            let views: Vec<_> = files.iter().map(|&(name, bytes)| FileView { name, bytes }).collect();
            Folder::read(&views).map(drop).map_err(|failure| failure.to_string())
        };
        assert_eq!(with(&json!({"weight_map": {"a": "m.safetensors", "b": "m.safetensors"}})), Ok(()));
        let missing = with(&json!({"weight_map": {"a": "n.safetensors"}})).unwrap_err();
        assert!(missing.contains("a is in n.safetensors, which is not there"), "{missing}");
        assert!(with(&json!({"weight_map": {"c": "m.safetensors"}})).unwrap_err().contains("and it is not"));
        for odd in [json!({}), json!({"weight_map": []}), json!({"weight_map": {"a": 1}})] {
            assert!(with(&odd).unwrap_err().contains(INDEX), "{odd}");
        }
    }
}
