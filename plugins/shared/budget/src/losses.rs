//! What units have measured, as they keep it: losses of things by encoding, as JSON.

use std::collections::BTreeMap;

use qhost_plugin_api::sdk::{Failure, Result};
use serde::de::DeserializeOwned;

/// Losses of things by their names, and by encoding.
pub type Losses<E> = BTreeMap<String, BTreeMap<E, f64>>;

/// Reads the texts of all units, by the keys under which they were kept.
///
/// # Errors
/// Fails with kind `CORRUPT` for another text.
pub fn read_losses<E: DeserializeOwned + Ord>(texts: &BTreeMap<String, String>) -> Result<Losses<E>> {
    let mut all = Losses::new();
    for (key, text) in texts {
        let of_unit: Losses<E> = serde_json::from_str(text)
            .map_err(|error| Failure::corrupt(format!("not what a survey keeps: {error}")).about(&**key))?;
        all.extend(of_unit);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_nothing_else() {
        let texts = [("losses-1".to_owned(), "{\"a\":{\"4\":0.5}}".to_owned())].into();
        let read: Losses<u32> = read_losses(&texts).unwrap_or_default();
        assert_eq!(read["a"][&4].to_bits(), 0.5_f64.to_bits());
        assert!(read_losses::<u32>(&[("losses-1".to_owned(), "[]".to_owned())].into()).is_err());
    }
}
