//! The zero-points and scales of a finished folder, looked at as a loader would.

use qhost_linears::{Module, bad_scale};

use crate::pack::unpack;

/// What is wrong with the numbers of a module.
pub(crate) fn wrong(module: &Module, zeros: &[u8], scales: &[u8]) -> Option<String> {
    let largest = module.settings.largest_code();
    let middle = largest / 2 + 1;
    let allowed = if module.settings.symmetric { middle..=middle } else { 0..=largest };
    if let Some(zero) = unpack(zeros).find(|zero| !allowed.contains(zero)) {
        return Some(format!("a zero-point is {zero}"));
    }
    bad_scale(scales, module)
}
