//! A size that the files are to have: all modules have 4 bits and groups of one size, so that is what is chosen. Smaller
//! groups lose less and take more.

use qhost_budget::{Size, bits_per_weight};
use qhost_linears::{Contents, Placement, group_name};
use qhost_plugin_api::{
    documents::Model,
    sdk::{Failure, Result},
};

use crate::{options::Choices, pack::parts};

/// The sizes of groups that all loaders take; whole rows last.
const GROUPS: [Option<u64>; 4] = [Some(32), Some(64), Some(128), None];

/// Chooses the smallest groups with which all files together are within the size; tells what was chosen.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` when there are none.
pub(crate) fn settle(size: Size, choices: &mut Choices, model: &Model) -> Result<String> {
    let weights = model.parameters();
    let limit = size.bytes(weights);
    let possible = if choices.says_groups { vec![choices.settings.group_size] } else { GROUPS.to_vec() };
    let (mut least, mut failure) = (u64::MAX, None);
    for group_size in possible {
        let mut tried = choices.clone();
        tried.settings.group_size = group_size;
        // Rows are not whole groups of every size.
        let bytes = match bytes(&tried, model) {
            Ok(bytes) => bytes,
            Err(other) => {
                failure = failure.or(Some(other));
                continue;
            }
        };
        if bytes <= limit {
            *choices = tried;
            return Ok(format!(
                "{} is chosen, the smallest groups within the size: {} of {} bits per weight",
                group_name(group_size),
                bits_per_weight(bytes, weights),
                bits_per_weight(limit, weights)
            ));
        }
        least = least.min(bytes);
    }
    if let Some(failure) = failure.filter(|_| least == u64::MAX) {
        return Err(failure);
    }
    Err(Failure::unsupported(format!("files of at most {limit} bytes are not to be had: AWQ files have 4 bits"))
        .about(size.flag())
        .hint(format!(
            "this model takes {least} bytes ({} bits per weight) and more; --format gptq has fewer bits",
            bits_per_weight(least, weights)
        )))
}

fn bytes(choices: &Choices, model: &Model) -> Result<u64> {
    let mut contents = Contents::of(model, choices)?;
    let placement = Placement::of(&mut contents.items, parts, choices.shard_bytes)?;
    Ok(placement.files().iter().map(|file| file.bytes).sum())
}
