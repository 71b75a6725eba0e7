//! A name that llama.cpp takes for a family's: it then asks for that family's tokens, and does not load a
//! file whose vocabulary has other ones.
//!
//! Seen in `llama_vocab::impl::load` of llama.cpp 0.6.0-dev. It knows nothing else of names.

use crate::metadata::{Array, Metadata, Value};

/// What llama.cpp looks for in the name of a model, in small letters.
const PHI_3: [&str; 2] = ["phi-3", "phi3"];
/// The tokens that it then needs.
const TOKENS: [&str; 4] = ["</s>", "<unk>", "<s>", "<|endoftext|>"];

/// Gives the model a name that llama.cpp takes for none, if its own would keep the file from being loaded;
/// tells the user.
pub(crate) fn avoid(metadata: &mut Metadata) -> Option<String> {
    let name = metadata.get("general.name").and_then(Value::as_str)?.to_owned();
    // Byte by byte, so that places in the name are places in its small letters.
    let small = name.to_ascii_lowercase();
    let found = PHI_3.iter().find(|part| small.contains(**part))?;
    let Some(Value::Array(Array::String(tokens))) = metadata.get("tokenizer.ggml.tokens") else { return None };
    let missing = TOKENS.iter().find(|token| !tokens.iter().any(|text| text == *token))?;
    let mut other = name.clone();
    while let Some(at) = PHI_3.iter().find_map(|part| other.to_ascii_lowercase().find(part).map(|at| (at, part.len())))
    {
        other.replace_range(at.0..at.0 + at.1, "Phi 3");
    }
    metadata.replace("general.name", other.as_str());
    Some(format!(
        "general.name is {other:?} instead of {name:?}: llama.cpp does not load a model with {found} in its name \
         whose vocabulary has no {missing:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, tokens: &[&str]) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.push("general.name", name).unwrap();
        let tokens: Vec<_> = tokens.iter().map(|token| (*token).to_owned()).collect();
        metadata.push("tokenizer.ggml.tokens", tokens).unwrap();
        metadata
    }

    #[test]
    fn the_name_is_changed_only_where_the_file_would_not_load() {
        for (name, tokens, expected) in [
            ("My phi3 and Phi-3", &["a"][..], "My Phi 3 and Phi 3"),
            ("Phi 3 mini", &TOKENS, "Phi 3 mini"),
            ("phi-3-mini", &TOKENS, "phi-3-mini"),
            ("Phi-4", &["a"], "Phi-4"),
        ] {
            let mut metadata = named(name, tokens);
            assert_eq!(avoid(&mut metadata).is_some(), name != expected);
            assert_eq!(metadata.get("general.name").and_then(Value::as_str), Some(expected));
        }
    }
}
