//! The zero-points and scales of a finished folder, looked at as a loader would.

use qhost_linears::{Module, bad_scale};
use qhost_packed::mask;
use qhost_plugin_api::sdk::Result;

use crate::{
    pack::{LENGTHS, SCALES, pack_lengths, zeros_part},
    read::stored_zero,
};

/// What is wrong with the numbers of a module, given a way to read its parts.
pub(crate) fn wrong(module: &Module, read: &dyn Fn(usize) -> Result<Vec<u8>>) -> Result<Option<String>> {
    if read(LENGTHS as usize)? != pack_lengths(module) {
        return Ok(Some("its lengths are others".into()));
    }
    if let Some(part) = zeros_part(module) {
        let (zeros, bits) = (read(part as usize)?, module.settings.bits);
        let (rows, groups) = (usize::try_from(module.rows).unwrap_or(0), usize::try_from(module.groups()).unwrap_or(0));
        // What is rounded never has a zero-point of 0.
        let least = u8::from(module.taken.is_none());
        for group in 0..groups {
            let of_group = |row| stored_zero(&zeros, (group, groups), bits, row);
            if let Some(zero) = (0..rows).map(of_group).find(|zero| !(least..=mask(bits as usize)).contains(zero)) {
                return Ok(Some(format!("a zero-point is {zero}")));
            }
        }
    }
    Ok(bad_scale(&read(SCALES as usize)?, module))
}
