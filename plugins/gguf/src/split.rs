//! A model in several files, as `llama-gguf-split` cuts it and llama.cpp loads it.
//!
//! Tensors are cut in their order, where a file has as many as it may have or would grow larger than it may. The first file
//! has all keys, and every file tells which of how many it is, and of how many tensors they all have. It knows sizes and
//! names, and no contents.

use std::ops::Range;

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    metadata::Metadata,
    write::{self, ALIGNMENT, Layout, Unplaced, data_bytes},
};

/// Where files are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Before their tensors take more bytes than this.
    Bytes(u64),
    /// After so many tensors.
    Tensors(usize),
}

impl Split {
    /// Reads a size such as `500M` or `2G`, in powers of ten.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for what is none.
    pub(crate) fn of_size(option: &str, text: &str) -> Result<Self> {
        let factor = |unit| if unit == 'G' { 1_000_000_000 } else { 1_000_000 };
        let unit = text.chars().last().filter(|unit| ['M', 'G'].contains(unit));
        let bytes = unit.and_then(|unit| text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(factor(unit)));
        bytes.filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(|| {
            Failure::usage(format!("`{text}` is no size of a file"))
                .about(format!("--plugin-option {option}"))
                .hint("it is a number of megabytes or gigabytes, such as 500M or 2G")
        })
    }

    /// Reads a number of tensors.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for what is none.
    pub(crate) fn of_tensors(option: &str, text: &str) -> Result<Self> {
        text.parse().ok().filter(|count| *count > 0).map(Self::Tensors).ok_or_else(|| {
            Failure::usage(format!("`{text}` is no number of tensors"))
                .about(format!("--plugin-option {option}"))
                .hint("it is a whole number, such as 128")
        })
    }

    /// Which tensors each file has, of tensors with so many bytes.
    fn parts(self, bytes: &[u64]) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut size) = (0, 0_u64);
        for (index, bytes) in bytes.iter().enumerate() {
            let full = match self {
                Self::Bytes(most) => size.saturating_add(*bytes) > most,
                Self::Tensors(most) => index - start == most,
            };
            if full && index > start {
                parts.push(start..index);
                (start, size) = (index, 0);
            }
            size = size.saturating_add(*bytes);
        }
        parts.push(start..bytes.len());
        parts
    }
}

/// Lays out the files, one after the other: one without a split.
///
/// # Errors
/// Fails when a row is no whole number of blocks, or there are more files than can be counted.
pub(crate) fn lay_out(metadata: &Metadata, mut tensors: Vec<Unplaced>, split: Option<Split>) -> Result<Vec<Layout>> {
    let Some(split) = split else { return Ok(vec![write::lay_out(metadata, tensors)?]) };
    let bytes: Vec<_> = tensors.iter().map(|tensor| data_bytes(tensor).unwrap_or(0)).collect();
    let aligned = |bytes: &u64| bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
    let parts = split.parts(&bytes.iter().map(aligned).collect::<Vec<_>>());
    let too_many = || Failure::unsupported("there would be too many files").hint("let them be larger");
    let (count, all) = (u16::try_from(parts.len()).map_err(|_| too_many())?, i32::try_from(tensors.len()));
    let all = all.map_err(|_| too_many())?;
    let mut layouts = Vec::new();
    for (number, part) in (0_u16..).zip(parts) {
        let mut own = if number == 0 { metadata.clone() } else { Metadata::new() };
        own.push("split.no", number)?;
        own.push("split.count", count)?;
        own.push("split.tensors.count", all)?;
        layouts.push(write::lay_out(&own, tensors.drain(..part.len()).collect())?);
    }
    Ok(layouts)
}

/// The name of a file among several, by the convention that llama.cpp finds the others by.
pub(crate) fn name(model: &str, number: usize, count: usize) -> String {
    format!("{model}-{:05}-of-{count:05}.gguf", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlockType;

    #[test]
    fn files_are_cut_where_they_would_be_too_large() {
        let bytes = [10, 20, 30, 100, 5, 5];
        assert_eq!(Split::Bytes(60).parts(&bytes), [0..3, 3..4, 4..6]);
        assert_eq!(Split::Bytes(59).parts(&bytes), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(Split::Bytes(1).parts(&bytes).len(), 6);
        assert_eq!(Split::Bytes(1000).parts(&bytes).len(), 1);
        assert_eq!(Split::Tensors(4).parts(&bytes), [0..4, 4..6]);
        assert_eq!(Split::Tensors(6).parts(&bytes).len(), 1);
    }

    #[test]
    fn sizes_are_those_of_the_reference() {
        assert_eq!(Split::of_size("o", "2G").unwrap(), Split::Bytes(2_000_000_000));
        assert_eq!(Split::of_size("o", "500M").unwrap(), Split::Bytes(500_000_000));
        for text in ["", "G", "0M", "2", "2K", "-1G", "1.5G", "99999999999G"] {
            assert!(Split::of_size("o", text).is_err(), "{text}");
        }
        assert!(Split::of_tensors("o", "0").is_err() && Split::of_tensors("o", "x").is_err());
    }

    #[test]
    fn every_file_tells_which_it_is_and_the_first_has_all_keys() {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        let tensor = |name: &str| Unplaced { name: name.into(), shape: vec![4], block_type: BlockType::F32 };
        let layouts = lay_out(&metadata, ["a", "b", "c"].map(tensor).to_vec(), Some(Split::Tensors(2))).unwrap();
        let read: Vec<_> = layouts.iter().map(|layout| crate::header::parse(&layout.header).unwrap()).collect();
        let number = |index: usize, key: &str| read[index].metadata.get(key).and_then(crate::metadata::Value::as_u64);
        assert_eq!((number(0, "split.no"), number(1, "split.no")), (Some(0), Some(1)));
        assert_eq!((number(1, "split.count"), number(1, "split.tensors.count")), (Some(2), Some(3)));
        assert_eq!((read[0].metadata.len(), read[1].metadata.len()), (4, 3));
        assert_eq!((read[0].tensors.len(), read[1].tensors[0].name.as_str()), (2, "c"));
        assert_eq!(name("m", 0, 12), "m-00001-of-00012.gguf");
    }
}
