//! Reading a file of our own back: whether it is the planned one, and its numbers are sound.
//!
//! It knows the block types of this plugin only.

use std::ops::Range;

use qhost_plugin_api::{
    documents::Check,
    sdk::{Failure, FilesHandle, HostHandle, Result, with_scratch},
};

use crate::{
    header::{self, Described},
    write::{Layout, TensorInfo, VERSION},
};

/// Bytes that are read at once when numbers are checked.
pub(crate) const PIECE: u64 = 256 << 10;

/// Re-reads a finished file: its structure as a loader reads it, against the layout, and every number.
///
/// # Errors
/// Fails when the file cannot be read; what is wrong with it is in the checks.
pub(crate) fn check(files: &FilesHandle, (name, layout): (&str, &Layout), host: &HostHandle) -> Result<Vec<Check>> {
    let structure = match files.length(name).unwrap_or(0) {
        length if length == layout.file_bytes => {
            let mut front = vec![0; layout.header.len()];
            files.read_exact(name, 0, &mut front)?;
            check_header(&front, layout)
        }
        length => Err(format!("the file is {length} bytes long, not {}", layout.file_bytes)),
    };
    if let Err(detail) = structure {
        let of = if name.is_empty() { String::new() } else { format!("{name}: ") };
        return Ok(vec![finding("structure", Err(format!("{of}{detail}")))]);
    }
    let data_start = layout.header.len() as u64;
    let numbers = check_numbers(files, name, data_start, &layout.tensors, host)?;
    Ok(vec![finding("structure", structure), finding("numbers", numbers)])
}

/// What was seen, or what is wrong.
type Seen = std::result::Result<String, String>;

fn finding(name: &str, seen: Seen) -> Check {
    match seen {
        Ok(detail) => Check::passed(name, detail),
        Err(detail) => Check::failed(name, detail),
    }
}

/// Holds what stands before the data against the plan, and reads it as a loader does.
fn check_header(front: &[u8], layout: &Layout) -> Seen {
    if let Some(at) = front.iter().zip(&layout.header).position(|(is, planned)| is != planned) {
        return Err(format!("its header is not the planned one from byte {at} on"));
    }
    let as_planned = |(described, planned): (&Described, &TensorInfo)| *described == Described::from(planned);
    match header::parse(front) {
        Ok(header)
            if header.version == VERSION
                && header.tensors.len() == layout.tensors.len()
                && header.tensors.iter().zip(&layout.tensors).all(as_planned)
                && header.data_start == front.len() as u64 =>
        {
            Ok(format!("{} keys, {} tensors", header.metadata.len(), header.tensors.len()))
        }
        Ok(_) => Err("its header reads otherwise than it was planned".into()),
        Err(failure) => Err(failure.to_string()),
    }
}

impl From<&TensorInfo> for Described {
    fn from(planned: &TensorInfo) -> Self {
        Self {
            name: planned.name.clone(),
            dimensions: planned.dimensions.clone(),
            ggml_type: planned.block_type.into(),
            offset: planned.offset,
            bytes: planned.bytes,
        }
    }
}

/// Looks for scales and values that are no finite numbers.
fn check_numbers(
    files: &FilesHandle,
    name: &str,
    data_start: u64,
    tensors: &[TensorInfo],
    host: &HostHandle,
) -> Result<Seen> {
    let pieces: Vec<_> = tensors.iter().flat_map(|tensor| pieces(tensor).map(move |piece| (tensor, piece))).collect();
    let bad = host.parallel_map(pieces.len(), |index| {
        let (tensor, piece) = &pieces[index];
        with_scratch(|scratch| {
            let length =
                usize::try_from(piece.end - piece.start).map_err(|_| Failure::internal("a piece is too long"))?;
            scratch.bytes.resize(length, 0);
            files.read_exact(name, data_start + tensor.offset + piece.start, &mut scratch.bytes)?;
            Ok(tensor.block_type.first_invalid_block(&scratch.bytes).is_some())
        })
    })?;
    Ok(match bad.iter().position(|bad| *bad) {
        Some(index) => Err(format!("{} holds scales or values that are no finite numbers", pieces[index].0.name)),
        None => Ok("all scales and values are finite".into()),
    })
}

/// Ranges of a tensor's data, each a whole number of blocks.
fn pieces(tensor: &TensorInfo) -> impl Iterator<Item = Range<u64>> {
    let block = tensor.block_type.block_bytes() as u64;
    let (step, end) = (PIECE / block * block, tensor.bytes);
    (0..end.div_ceil(step)).map(move |index| index * step..((index + 1) * step).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::BlockType,
        metadata::Metadata,
        write::{Unplaced, lay_out},
    };

    fn layout() -> Layout {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        metadata.push("general.file_type", 15_u32).unwrap();
        let tensor =
            |name: &str, shape: &[u64], block_type| Unplaced { name: name.into(), shape: shape.into(), block_type };
        let tensors = vec![
            tensor("output.weight", &[2, 256], BlockType::Q6K),
            tensor("blk.0.attn_norm.weight", &[256], BlockType::F32),
        ];
        lay_out(&metadata, tensors).unwrap()
    }

    #[test]
    fn every_byte_of_the_header_is_held_against_the_plan() {
        let layout = layout();
        assert_eq!(check_header(&layout.header, &layout), Ok("2 keys, 2 tensors".into()));
        for at in 0..layout.header.len() {
            let mut bytes = layout.header.clone();
            bytes[at] ^= 1;
            let detail = check_header(&bytes, &layout).unwrap_err();
            assert!(detail.contains(&format!("byte {at} ")), "{detail}");
        }
    }

    #[test]
    fn pieces_cover_the_data_in_whole_blocks() {
        let tensor = |bytes| TensorInfo {
            name: String::new(),
            dimensions: vec![256],
            block_type: BlockType::Q6K,
            offset: 0,
            bytes,
        };
        for bytes in [210, 210 * 4993, 210 * 4994, 210 * 20_000] {
            let mut next = 0;
            for piece in pieces(&tensor(bytes)) {
                assert_eq!(piece.start, next);
                assert_eq!((piece.end - piece.start) % 210, 0);
                next = piece.end;
            }
            assert_eq!(next, bytes);
        }
    }
}
