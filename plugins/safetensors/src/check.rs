//! A finished folder, looked at as a loader would: headers, index, and every number.

use std::ops::Range;

use qhost_folder::{Layout, Place, check_headers};
use qhost_plugin_api::{
    documents::{Check, Findings},
    sdk::{Failure, FilesHandle, HostHandle, Result, with_scratch},
};

use crate::items::Item;

/// Bytes that are read at once.
const AT_ONCE: u64 = 256 << 10;

/// Looks at everything.
///
/// # Errors
/// Fails when the files cannot be read.
pub(crate) fn check(files: &FilesHandle, layout: &Layout, items: &[Item], host: &HostHandle) -> Result<Findings> {
    let tensors: Vec<_> = items.iter().map(Item::placed).collect();
    let structure = check_headers(files, layout, &tensors)?;
    let placed = items.iter().zip(&layout.places);
    let pieces: Vec<_> =
        placed.flat_map(|(item, place)| pieces(place).map(move |piece| (item, place, piece))).collect();
    let bad = host.parallel_map(pieces.len(), |index| {
        let (item, place, piece) = &pieces[index];
        let shard =
            layout.shards.get(place.shard as usize).ok_or_else(|| Failure::internal("there is no such file"))?;
        let length = usize::try_from(piece.end - piece.start).map_err(|_| Failure::internal("a piece is too long"))?;
        with_scratch(|scratch| {
            scratch.bytes.resize(length, 0);
            files.read_exact(&shard.name, place.offset + piece.start, &mut scratch.bytes)?;
            Ok(item.to.first_not_finite(&scratch.bytes).is_some())
        })
    })?;
    let numbers = match bad.iter().position(|bad| *bad) {
        Some(index) => {
            Check::failed("numbers", format!("{} has weights that are no finite numbers", pieces[index].0.name))
        }
        None => Check::passed("numbers", "all weights are finite"),
    };
    Ok(Findings::new(vec![structure, numbers]))
}

/// Ranges of a tensor's bytes.
fn pieces(place: &Place) -> impl Iterator<Item = Range<u64>> {
    let end = place.bytes;
    (0..end.div_ceil(AT_ONCE)).map(move |piece| piece * AT_ONCE..((piece + 1) * AT_ONCE).min(end))
}
