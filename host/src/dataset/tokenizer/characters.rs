//! Maps of characters (`precompiled_charsmap`), which say what SentencePiece makes of a text first: four bytes with the length
//! of a trie, the trie, and the texts that it leads to.
//!
//! The library that reads them takes memory for as long a trie as they say, so that has to be there.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

/// Looks at a map.
pub(super) fn check(map: &[u8]) -> Result<(), &'static str> {
    let (told, rest) = map.split_first_chunk::<4>().ok_or("it is cut short")?;
    let told = usize::try_from(u32::from_le_bytes(*told)).unwrap_or(usize::MAX);
    if told <= rest.len() { Ok(()) } else { Err("it is shorter than it says") }
}

/// Looks at the maps among the normalizers of a `tokenizer.json`.
pub(super) fn check_json(json: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Outline {
        normalizer: Option<Value>,
    }
    let outline: Outline = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    outline.normalizer.as_ref().map_or(Ok(()), check_within)
}

fn check_within(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(values) => values.iter().try_for_each(check_within),
        Value::Object(members) => members.iter().try_for_each(|(key, value)| match value.as_str() {
            Some(map) if key == "precompiled_charsmap" => {
                let told = |reason: &dyn std::fmt::Display| format!("its map of characters: {reason}");
                let map = STANDARD.decode(map).map_err(|error| told(&error))?;
                check(&map).map_err(|reason| told(&reason))
            }
            _ => check_within(value),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_has_to_be_as_long_as_it_says() {
        let whole = [4_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        assert_eq!(check(&whole), Ok(()));
        for lie in [&whole[..3], &whole[..7], &u32::MAX.to_le_bytes()[..]] {
            assert!(check(lie).is_err(), "{lie:?}");
        }
    }

    #[test]
    fn maps_are_found_wherever_a_normalizer_has_them() {
        let json = |map: &[u8]| {
            let map = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(map)});
            serde_json::json!({"normalizer": {"type": "Sequence", "normalizers": [map]}}).to_string()
        };
        assert_eq!(check_json(json(&0_u32.to_le_bytes()).as_bytes()), Ok(()));
        let refused = check_json(json(&u32::MAX.to_le_bytes()).as_bytes()).unwrap_err();
        assert_eq!(refused, "its map of characters: it is shorter than it says");
        assert_eq!(check_json(b"{}"), Ok(()));
    }
}
