//! The JSON files of a Hugging Face tokenizer, read into what the rest needs.
//!
//! It knows how `tokenizer.json` and `tokenizer_config.json` spell things, in their older and newer
//! forms, and nothing of what GGUF makes of them.

use std::{collections::BTreeMap, fmt};

use qhost_plugin_api::sdk::{Failure, Result};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::Files;

/// `tokenizer.json`, with the part of `model` that `M` asks for.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson<M> {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: M,
}

/// What kind of model it is; its vocabulary is skipped.
#[derive(Debug, Deserialize)]
pub(super) struct ModelKind {
    /// Files of the first years have no `type`.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    merges: Option<serde::de::IgnoredAny>,
}

impl ModelKind {
    pub(super) fn name(&self) -> &str {
        match &self.kind {
            Some(kind) => kind,
            None if self.merges.is_some() => "BPE",
            None => "a model without a type",
        }
    }
}

/// A byte-pair-encoding model.
#[derive(Debug, Deserialize)]
pub(super) struct Bpe {
    #[serde(deserialize_with = "pairs_of_map")]
    pub(super) vocab: Vec<(String, u32)>,
    pub(super) merges: Vec<Merge>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) continuing_subword_prefix: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) end_of_word_suffix: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) byte_fallback: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ignore_merges: bool,
}

/// A token outside the model, matched in the text before the model sees it.
#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the switches of the file")]
pub(super) struct AddedToken {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) special: bool,
}

impl AddedToken {
    /// A token of which nothing but text and id is known.
    pub(super) fn plain(content: String, id: u32) -> Self {
        Self { id, content, single_word: false, lstrip: false, rstrip: false, special: false }
    }
}

/// Two tokens that become one: written as `"a b"`, or as `["a", "b"]` since spaces may stand inside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    pub(super) left: String,
    pub(super) right: String,
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                        Ok(Merge { left: left.to_owned(), right: right.to_owned() })
                    }
                    _ => Err(E::custom(format!("the merge `{text}` is not two tokens with one space between"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> std::result::Result<Merge, A::Error> {
                let missing = || serde::de::Error::custom("a merge has fewer than two tokens");
                let left: String = sequence.next_element()?.ok_or_else(missing)?;
                let right: String = sequence.next_element()?.ok_or_else(missing)?;
                if sequence.next_element::<serde::de::IgnoredAny>()?.is_some() || left.is_empty() || right.is_empty() {
                    return Err(serde::de::Error::custom("a merge is not two tokens"));
                }
                Ok(Merge { left, right })
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

/// `null` where a newer file would leave the key out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The vocabulary as a list, without a tree of JSON values in between.
fn pairs_of_map<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<(String, u32)>, D::Error> {
    struct PairsVisitor;
    impl<'de> Visitor<'de> for PairsVisitor {
        type Value = Vec<(String, u32)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map from tokens to ids")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(PairsVisitor)
}

/// `tokenizer_config.json`, or nothing.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    pub(super) values: Map<String, Value>,
    /// Whether the file is there at all, on which some rules of the reference converter depend.
    pub(super) present: bool,
}

impl TokenizerConfig {
    /// A special token's text: a string, or an object with `content`.
    pub(super) fn token(&self, key: &str) -> Option<&str> {
        token_text(self.values.get(key)?)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.values.get(key)?.as_bool()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }

    /// The tokens of `added_tokens_decoder`, by ascending id.
    ///
    /// # Errors
    /// Fails when an entry is not a token under a number.
    pub(super) fn added_tokens(&self) -> Result<Vec<AddedToken>> {
        let Some(Value::Object(entries)) = self.values.get("added_tokens_decoder") else { return Ok(Vec::new()) };
        let mut tokens = BTreeMap::new();
        for (id, entry) in entries {
            let broken = |detail: String| {
                Failure::corrupt(format!("`added_tokens_decoder` has an entry `{id}` that {detail}"))
                    .about("tokenizer_config.json")
            };
            let number: u32 = id.parse().map_err(|_| broken("is not under a number".to_owned()))?;
            let mut token =
                AddedToken::deserialize(entry).map_err(|error| broken(format!("is not a token: {error}")))?;
            token.id = number;
            tokens.insert(number, token);
        }
        Ok(tokens.into_values().collect())
    }
}

/// A special token's text, in either spelling.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str()).filter(|text| !text.is_empty())
}

/// Reads a JSON file, or `None` if there is no such file.
pub(super) fn read_json<T: DeserializeOwned>(files: &dyn Files, name: &str) -> Result<Option<T>> {
    let Some(bytes) = files.read(name)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Failure::corrupt(format!("not the JSON expected: {error}")).about(name))
}

/// Reads a UTF-8 file, or `None` if there is no such file.
pub(super) fn read_text(files: &dyn Files, name: &str) -> Result<Option<String>> {
    files
        .read(name)?
        .map(|bytes| String::from_utf8(bytes).map_err(|_| Failure::corrupt("not valid UTF-8").about(name)))
        .transpose()
}

/// Reads `tokenizer_config.json`.
pub(super) fn read_config(files: &dyn Files) -> Result<TokenizerConfig> {
    Ok(match read_json(files, "tokenizer_config.json")? {
        Some(values) => TokenizerConfig { values, present: true },
        None => TokenizerConfig::default(),
    })
}

/// The steps of a normalizer, pre-tokenizer or post-processor, with sequences opened.
///
/// `list` is the key under which a `Sequence` keeps its steps.
pub(super) fn steps<'a>(node: &'a Value, list: &str) -> Vec<&'a Value> {
    // serde_json has bounded the depth when it parsed the file.
    match node {
        Value::Null => Vec::new(),
        _ if kind(node) == "Sequence" => {
            node.get(list).and_then(Value::as_array).into_iter().flatten().flat_map(|step| steps(step, list)).collect()
        }
        _ => vec![node],
    }
}

/// A step's `type`.
pub(super) fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("a step without a type")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_has_two_spellings() {
        let merges: Vec<Merge> = serde_json::from_str(r#"["a b", ["c", "d e"]]"#).unwrap();
        assert_eq!(merges[0], Merge { left: "a".to_owned(), right: "b".to_owned() });
        assert_eq!(merges[1], Merge { left: "c".to_owned(), right: "d e".to_owned() });
        for broken in
            [r#"["ab"]"#, r#"["a b c"]"#, r#"[" a"]"#, r#"[["a"]]"#, r#"[["a","b","c"]]"#, r#"[["","b"]]"#, "[1]"]
        {
            assert!(serde_json::from_str::<Vec<Merge>>(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn sequences_are_opened_in_order() {
        let tree = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits"},
            {"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "ByteLevel"}]},
        ]});
        let kinds: Vec<&str> = steps(&tree, "pretokenizers").into_iter().map(kind).collect();
        assert_eq!(kinds, ["Digits", "Punctuation", "ByteLevel"]);
        assert!(steps(&Value::Null, "pretokenizers").is_empty());
    }

    #[test]
    fn a_special_token_is_text_or_an_object() {
        let values = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "unk_token": null});
        let Value::Object(values) = values else { panic!("an object was written") };
        let config = TokenizerConfig { values, present: true };
        assert_eq!(config.token("bos_token"), Some("<s>"));
        assert_eq!(config.token("eos_token"), Some("</s>"));
        assert_eq!(config.token("unk_token"), None);
    }
}
