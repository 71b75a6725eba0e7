//! Reading values of `--plugin-option`.

use qhost_plugin_api::sdk::{Failure, Result};

/// The meaning of a value that is one of these names.
///
/// # Errors
/// Fails with kind `USAGE` for another one.
pub fn one_of<T: Copy>(key: &str, value: &str, names: &[(&str, T)]) -> Result<T> {
    let found = names.iter().find(|(name, _)| *name == value);
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        bad(key, value).hint(format!("it takes {}", names.join(", ")))
    })
}

/// A value has no meaning.
#[must_use]
pub fn bad(key: &str, value: &str) -> Failure {
    Failure::usage(format!("`{value}` has no meaning")).about(format!("--plugin-option {key}"))
}
