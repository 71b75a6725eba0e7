//! The layout of a GGUF file: header, metadata, tensor descriptions, and aligned data.
//!
//! It knows bytes and offsets, not what is in them. Layout: version 3 of the GGUF specification
//! (`ggml/docs/gguf.md`), data aligned to 32 bytes.

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    format::BlockType,
    metadata::{Metadata, write_string},
};

/// The first four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version of the container.
pub(crate) const VERSION: u32 = 3;
/// Tensor data start at multiples of this.
pub(crate) const ALIGNMENT: u64 = 32;

/// A tensor in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Its name.
    pub(crate) name: String,
    /// Its dimensions, the row length first.
    pub(crate) dimensions: Vec<u64>,
    /// How it is stored.
    pub(crate) block_type: BlockType,
    /// First byte of its data, from the start of all data.
    pub(crate) offset: u64,
    /// Length of its data.
    pub(crate) bytes: u64,
}

/// A file laid out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    /// The tensors with their offsets.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Everything before the data, padding included.
    pub(crate) header: Vec<u8>,
    /// Length of the file.
    pub(crate) file_bytes: u64,
}

/// A tensor that has no place yet: name, shape with the outermost dimension first, type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) block_type: BlockType,
}

/// Lays a file out.
///
/// # Errors
/// Fails when a row is no whole number of blocks, or the file would be longer than can be counted.
pub(crate) fn lay_out(metadata: &Metadata, tensors: Vec<Unplaced>) -> Result<Layout> {
    let too_long = || Failure::unsupported("the file would be too long");
    let mut offset = 0_u64;
    let mut placed = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dimensions = dimensions(&tensor.shape);
        let bytes = data_bytes(&tensor).ok_or_else(|| {
            Failure::internal(format!("rows of {} are no whole {} blocks", dimensions[0], tensor.block_type.name()))
                .about(&*tensor.name)
        })?;
        placed.push(TensorInfo { name: tensor.name, dimensions, block_type: tensor.block_type, offset, bytes });
        offset = offset.checked_add(bytes).and_then(align).ok_or_else(too_long)?;
    }
    let header = header(metadata, &placed);
    let file_bytes = (header.len() as u64).checked_add(offset).ok_or_else(too_long)?;
    Ok(Layout { tensors: placed, header, file_bytes })
}

/// The dimensions as the format states them: the row length first, outer ones left out.
///
/// A dimension of 1 at the outer end carries nothing, and the reference drops it.
pub(crate) fn dimensions(shape: &[u64]) -> Vec<u64> {
    let mut dimensions: Vec<u64> = shape.iter().rev().copied().collect();
    while dimensions.len() > 1 && dimensions.last() == Some(&1) {
        dimensions.pop();
    }
    if dimensions.is_empty() {
        dimensions.push(1);
    }
    dimensions
}

pub(crate) fn data_bytes(tensor: &Unplaced) -> Option<u64> {
    let (row, outer) = tensor.shape.split_last().unwrap_or((&1, &[]));
    let rows = outer.iter().try_fold(1_u64, |rows, dimension| rows.checked_mul(*dimension))?;
    tensor.block_type.row_bytes(*row)?.checked_mul(rows)
}

/// The next multiple of [`ALIGNMENT`].
pub(crate) fn align(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(ALIGNMENT)
}

fn header(metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    metadata.write(&mut bytes);
    for tensor in tensors {
        write_string(&tensor.name, &mut bytes);
        #[expect(clippy::cast_possible_truncation, reason = "a handful of dimensions")]
        bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
        for dimension in &tensor.dimensions {
            bytes.extend(dimension.to_le_bytes());
        }
        bytes.extend(tensor.block_type.ggml_type().to_le_bytes());
        bytes.extend(tensor.offset.to_le_bytes());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the alignment is 32")]
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_aligned_and_the_file_ends_padded() {
        let tensor =
            |name: &str, shape: &[u64], block_type| Unplaced { name: name.into(), shape: shape.into(), block_type };
        let tensors = vec![
            tensor("a", &[3, 32], BlockType::Q4_0),
            tensor("b", &[5], BlockType::F32),
            tensor("c", &[1, 256], BlockType::Q4K),
        ];
        let layout = lay_out(&Metadata::new(), tensors).unwrap();
        let places: Vec<_> = layout.tensors.iter().map(|tensor| (tensor.offset, tensor.bytes)).collect();
        assert_eq!(places, [(0, 54), (64, 20), (96, 144)]);
        assert_eq!(layout.tensors[2].dimensions, [256]);
        assert_eq!(layout.header.len() % 32, 0);
        assert_eq!(layout.file_bytes, layout.header.len() as u64 + 256);
    }

    #[test]
    fn no_tensor_overlaps_the_one_before_it_and_none_passes_the_end() {
        let types = [BlockType::F32, BlockType::F16, BlockType::Q4_0, BlockType::Q3K, BlockType::Q6K, BlockType::Q8_0];
        let tensors = (0..60).map(|index| Unplaced {
            name: format!("t{index}"),
            shape: vec![index % 7 + 1, 256 * (index % 3 + 1)],
            block_type: types[usize::try_from(index).unwrap() % types.len()],
        });
        let layout = lay_out(&Metadata::new(), tensors.collect()).unwrap();
        let mut end = 0;
        for tensor in &layout.tensors {
            assert!(tensor.offset.is_multiple_of(ALIGNMENT), "{}", tensor.name);
            assert!((end..end + ALIGNMENT).contains(&tensor.offset), "{}", tensor.name);
            end = tensor.offset + tensor.bytes;
        }
        assert_eq!(layout.file_bytes, layout.header.len() as u64 + align(end).unwrap());
    }

    #[test]
    fn rows_that_do_not_fit_and_sizes_that_overflow_are_errors() {
        let tensor =
            |shape: &[u64]| vec![Unplaced { name: "a".into(), shape: shape.into(), block_type: BlockType::Q4_0 }];
        assert!(lay_out(&Metadata::new(), tensor(&[2, 33])).is_err());
        assert!(lay_out(&Metadata::new(), tensor(&[u64::MAX, 32])).is_err());
        assert!(lay_out(&Metadata::new(), tensor(&[u64::MAX / 18, 32])).is_err());
    }
}
