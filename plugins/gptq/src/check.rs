//! The zero-points and scales of a finished folder, looked at as a loader would.

use qhost_linears::{Module, bad_scale};

use crate::{options::CheckpointFormat, pack::unpack};

/// What is wrong with the numbers of a module.
pub(crate) fn wrong(module: &Module, zeros: &[u8], scales: &[u8], format: CheckpointFormat) -> Option<String> {
    let largest = module.settings.largest_code();
    let stored = |zero: u8| match format {
        CheckpointFormat::V1 => zero - 1,
        CheckpointFormat::V2 => zero,
    };
    let allowed = if module.settings.symmetric {
        let middle = stored(largest / 2 + 1);
        middle..=middle
    } else {
        // What is rounded never has a zero-point of 0.
        let least = u8::from(module.taken.is_none() || format == CheckpointFormat::V1);
        stored(least)..=stored(largest)
    };
    if let Some(zero) = unpack(zeros, module.settings.bits).find(|zero| !allowed.contains(zero)) {
        return Some(format!("a zero-point is stored as {zero}"));
    }
    bad_scale(scales, module)
}
