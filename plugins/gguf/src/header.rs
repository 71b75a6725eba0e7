//! Parsing what stands before the data of any GGUF file, of version 2 or 3.
//!
//! It trusts nothing: every length is held against the bytes that are there, so memory stays within a
//! small multiple of them. It knows every type's size and no key's meaning but that of the alignment.

use std::collections::HashSet;

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    cursor::Cursor,
    metadata::{Metadata, Value},
    write::{ALIGNMENT, MAGIC},
};
use qhost_ggml::GgmlType;

/// The versions that llama.cpp reads; they do not differ but in what big-endian means.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// The key that states the alignment, where it is not the usual one.
const ALIGNMENT_KEY: &str = "general.alignment";
/// The most dimensions that a tensor has.
const MOST_DIMENSIONS: u32 = 4;
/// The bytes of the shortest description of a tensor: name, dimensions, type, offset.
const SHORTEST_TENSOR: usize = 8 + 4 + 4 + 8;

/// What the front of a file says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// The version of the container.
    pub(crate) version: u32,
    /// The keys, in the order of the file.
    pub(crate) metadata: Metadata,
    /// The tensors, in the order of the file.
    pub(crate) tensors: Vec<Described>,
    /// What offsets are multiples of.
    pub(crate) alignment: u64,
    /// Where the data start.
    pub(crate) data_start: u64,
}

/// A tensor as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// Its name.
    pub(crate) name: String,
    /// Its dimensions, the row length first.
    pub(crate) dimensions: Vec<u64>,
    /// How it is stored.
    pub(crate) ggml_type: GgmlType,
    /// First byte of its data, from the start of all data.
    pub(crate) offset: u64,
    /// Length of its data.
    pub(crate) bytes: u64,
}

/// Parses the front of a file.
///
/// # Errors
/// Fails with kind `CORRUPT` when the bytes are not a whole GGUF header, and with `UNSUPPORTED` for a version
/// or byte order that llama.cpp does not read.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor::new(bytes);
    if !bytes.starts_with(&MAGIC) {
        return Err(match bytes.len() {
            0 => Failure::corrupt("it is empty"),
            _ => Failure::corrupt("it does not start with GGUF, as every GGUF file does"),
        });
    }
    cursor.take(4)?;
    let version = cursor.u32()?;
    check_version(version)?;
    let tensor_count = cursor.u64()?;
    let key_count = cursor.u64()?;
    let metadata = Metadata::read(&mut cursor, key_count)?;
    if tensor_count > (cursor.left() / SHORTEST_TENSOR) as u64 {
        let left = cursor.left();
        return Err(Failure::corrupt(format!("announces {tensor_count} tensors, more than {left} bytes can describe")));
    }
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for index in 0..tensor_count {
        let tensor = tensor(&mut cursor, index)?;
        if !names.insert(tensor.name.clone()) {
            return Err(Failure::corrupt("it is described twice").about(tensor.name));
        }
        tensors.push(tensor);
    }
    let alignment = alignment(&metadata)?;
    let data_start = (cursor.position() as u64).checked_next_multiple_of(alignment);
    let data_start = data_start.ok_or_else(|| Failure::corrupt("its header is too long"))?;
    Ok(Header { version, metadata, tensors, alignment, data_start })
}

fn check_version(version: u32) -> Result<()> {
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(Failure::unsupported("it is a big-endian file, which is not read here")
            .hint("llama.cpp's gguf_convert_endian.py turns it into a little-endian one"));
    }
    Err(match version {
        1 => Failure::unsupported("it is GGUF version 1, which llama.cpp no longer reads either")
            .hint("make the file anew from the original checkpoint"),
        _ => Failure::unsupported(format!("it says that it is GGUF version {version}; versions 2 and 3 are read"))
            .hint("it is damaged, or newer than this plugin"),
    })
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => Ok((*alignment).into()),
        Some(_) => Err(Failure::corrupt(format!("its `{ALIGNMENT_KEY}` is no power of two"))),
    }
}

fn tensor(cursor: &mut Cursor<'_>, index: u64) -> Result<Described> {
    let name = cursor.string().map_err(|failure| failure.about(format!("tensor {index}")))?;
    let wrong = |what: String| Failure::corrupt(what).about(&*name);
    let rank = cursor.u32()?;
    if rank > MOST_DIMENSIONS {
        return Err(wrong(format!("it has {rank} dimensions, more than {MOST_DIMENSIONS}")));
    }
    let dimensions = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<_>>>()?;
    let number = cursor.u32()?;
    let ggml_type = GgmlType::numbered(number).ok_or_else(|| match GgmlType::removed(number) {
        Some(removed) => Failure::unsupported(format!("its type {removed} left the format")).about(&*name),
        None => wrong(format!("its type {number} is not known"))
            .hint("the file is damaged, or made by a newer llama.cpp or a fork with types of its own"),
    })?;
    let offset = cursor.u64()?;
    let row = dimensions.first().copied().unwrap_or(1);
    let row_bytes = ggml_type.row_bytes(row).ok_or_else(|| {
        wrong(format!("its rows of {row} are no whole {} blocks of {}", ggml_type.name, ggml_type.block_elements))
    })?;
    let rows = dimensions.iter().skip(1).try_fold(1_u64, |rows, dimension| rows.checked_mul(*dimension));
    // ggml counts elements in an i64.
    let countable = |rows: &u64| row.checked_mul(*rows).is_some_and(|elements| i64::try_from(elements).is_ok());
    let bytes = rows.filter(countable).and_then(|rows| row_bytes.checked_mul(rows));
    let bytes = bytes.ok_or_else(|| wrong(format!("its dimensions {dimensions:?} are impossible")))?;
    Ok(Described { name, dimensions, ggml_type, offset, bytes })
}

impl Header {
    /// Holds every tensor's place against the length of the file.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the first tensor that is wrong, when data lie outside the file,
    /// over one another, or at an offset that is not aligned.
    pub(crate) fn check_places(&self, file_bytes: u64) -> Result<()> {
        let mut order: Vec<_> = self.tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
        order.sort_by_key(|tensor| tensor.offset);
        let mut before: Option<(&Described, u64)> = None;
        for tensor in order {
            let wrong = |what: String| Err(Failure::corrupt(what).about(&*tensor.name));
            if !tensor.offset.is_multiple_of(self.alignment) {
                return wrong(format!("its data are at {}, no multiple of {}", tensor.offset, self.alignment));
            }
            let start = self.data_start.checked_add(tensor.offset);
            let Some(end) = start.and_then(|start| start.checked_add(tensor.bytes)) else {
                return wrong("its data are past the end of any file".into());
            };
            if end > file_bytes {
                return Err(Failure::corrupt(format!(
                    "its data end at byte {end}, the file has {file_bytes}: a part of the file is missing"
                ))
                .about(&*tensor.name)
                .hint("the download or copy is probably incomplete: fetch the file again"));
            }
            if let Some((other, _)) = before.filter(|(_, taken)| tensor.offset < *taken) {
                return wrong(format!("its data overlap those of {}", other.name));
            }
            before = Some((tensor, tensor.offset + tensor.bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::BlockType,
        write::{Unplaced, lay_out},
    };

    fn file() -> Vec<u8> {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        metadata.push("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()]).unwrap();
        let tensor =
            |name: &str, shape: &[u64], block_type| Unplaced { name: name.into(), shape: shape.into(), block_type };
        let tensors = vec![
            tensor("output.weight", &[2, 256], BlockType::Q6K),
            tensor("blk.0.attn_norm.weight", &[256], BlockType::F32),
        ];
        let layout = lay_out(&metadata, tensors).unwrap();
        let mut bytes = layout.header;
        bytes.resize(usize::try_from(layout.file_bytes).unwrap(), 0);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        match parse(bytes).and_then(|header| header.check_places(bytes.len() as u64)) {
            Ok(()) => "none".into(),
            Err(failure) => failure.to_string(),
        }
    }

    /// The bytes with a little-endian number replaced.
    fn with(bytes: &[u8], at: usize, number: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at..at + number.len()].copy_from_slice(number);
        bytes
    }

    /// Where the description of the first tensor has its rank.
    fn rank_at(bytes: &[u8]) -> usize {
        bytes.windows(13).position(|window| window == b"output.weight").unwrap() + 13
    }

    #[test]
    fn versions_two_and_three_are_read_and_no_others() {
        let bytes = file();
        assert_eq!(refusal(&bytes), "none");
        assert_eq!(parse(&with(&bytes, 4, &2_u32.to_le_bytes())).unwrap().version, 2);
        for (version, words) in [(1_u32, "version 1"), (4, "version 4"), (0, "version 0"), (3 << 24, "big-endian")] {
            assert!(refusal(&with(&bytes, 4, &version.to_le_bytes())).contains(words), "{version}");
        }
    }

    #[test]
    fn counts_that_lie_are_refused_before_anything_is_allocated() {
        let bytes = file();
        for count in [3_u64, 1 << 32, u64::MAX] {
            for at in [8, 16] {
                assert_ne!(refusal(&with(&bytes, at, &count.to_le_bytes())), "none", "{count} at {at}");
            }
        }
        assert!(refusal(&with(&bytes, 8, &u64::MAX.to_le_bytes())).contains("announces"));
    }

    #[test]
    fn impossible_tensors_are_refused_by_name() {
        let bytes = file();
        let rank = rank_at(&bytes);
        let (dims, kind, offset) = (rank + 4, rank + 20, rank + 24);
        for (at, number, words) in [
            (rank, 5_u64, "5 dimensions"),
            (dims, 255, "no whole Q6_K blocks of 256"),
            (dims + 8, u64::MAX, "impossible"),
            (dims + 8, 1 << 56, "impossible"),
            (dims + 8, 3, "overlap"),
            (dims + 8, 1 << 40, "a part of the file is missing"),
            (offset, 1, "no multiple of 32"),
            (offset, 1 << 40, "a part of the file is missing"),
            (offset, u64::MAX - 31, "past the end"),
        ] {
            let length = if at == rank { 4 } else { 8 };
            let message = refusal(&with(&bytes, at, &number.to_le_bytes()[..length]));
            let overlapping = words == "overlap";
            let subject = if overlapping { "blk.0.attn_norm.weight" } else { "output.weight" };
            assert!(message.contains(words) && message.starts_with(subject), "{words}: {message}");
        }
        assert!(refusal(&with(&bytes, kind, &99_u32.to_le_bytes())).contains("type 99 is not known"));
        assert!(refusal(&with(&bytes, kind, &31_u32.to_le_bytes())).contains("Q4_0_4_4 left the format"));
    }

    #[test]
    fn a_name_or_key_comes_once() {
        let bytes = file();
        let mut metadata = Metadata::new();
        metadata.push("k", 1_u32).unwrap();
        let tensor = |name: &str| Unplaced { name: name.into(), shape: vec![1], block_type: BlockType::F32 };
        let layout = lay_out(&metadata, vec![tensor("a"), tensor("a")]).unwrap();
        assert_eq!(parse(&layout.header).unwrap_err().to_string(), "a: it is described twice");
        assert_eq!(refusal(&bytes), "none");
    }

    #[test]
    fn every_cut_is_an_error_and_no_flipped_byte_a_panic() {
        let bytes = file();
        for length in 0..bytes.len() - 32 {
            assert_ne!(refusal(&bytes[..length]), "none", "cut at {length}");
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                let _ = refusal(&bytes);
            }
        }
    }

    #[test]
    fn a_stated_alignment_is_kept() {
        let with_alignment = |value: Value| {
            let mut metadata = Metadata::new();
            metadata.push(ALIGNMENT_KEY, value).unwrap();
            parse(&lay_out(&metadata, Vec::new()).unwrap().header)
        };
        let header = with_alignment(Value::U32(64)).unwrap();
        assert_eq!((header.alignment, header.data_start % 64), (64, 0));
        for bad in [Value::U32(0), Value::U32(48), Value::U64(32)] {
            assert!(with_alignment(bad).is_err());
        }
    }
}
