//! `tokenizer_config.json` and `special_tokens_map.json`: which tokens are special, and what goes around a text.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CONFIG, Error, SPECIAL_TOKENS};

/// The keys of tokens that a tokenizer names; templates know them by these names.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Config {
    config: Map<String, Value>,
    special: Map<String, Value>,
}

/// A token that was added to a vocabulary.
#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are the file's")]
pub(super) struct Added {
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

impl Config {
    pub(super) fn read(config: Option<&[u8]>, special: Option<&[u8]>) -> Result<Self, Error> {
        let object = |bytes: Option<&[u8]>, file: &str| match bytes.map(serde_json::from_slice).transpose() {
            Ok(object) => Ok(object.unwrap_or_default()),
            Err(error) => Err(Error::BadTokenizer { file: file.to_owned(), reason: error.to_string() }),
        };
        Ok(Self { config: object(config, CONFIG)?, special: object(special, SPECIAL_TOKENS)? })
    }

    /// A named token; the map of special tokens has the last word where the config has no list of added ones, as for
    /// transformers.
    pub(super) fn token(&self, key: &str) -> Option<&str> {
        let (config, special) = (self.config.get(key).and_then(content), self.special.get(key).and_then(content));
        if self.config.contains_key("added_tokens_decoder") { config.or(special) } else { special.or(config) }
    }

    pub(super) fn bos(&self) -> Option<&str> {
        self.token("bos_token")
    }

    pub(super) fn eos(&self) -> Option<&str> {
        self.token("eos_token")
    }

    /// The named tokens with their names.
    pub(super) fn named_tokens(&self) -> Vec<(String, String)> {
        NAMED.iter().filter_map(|key| Some(((*key).to_owned(), self.token(key)?.to_owned()))).collect()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }

    /// Whether a text begins with the BOS token, where no post-processor says so. Transformers 5 takes the absence of
    /// the key for a no.
    pub(super) fn adds_bos(&self) -> bool {
        self.flag("add_bos_token").unwrap_or(false)
    }

    pub(super) fn adds_eos(&self) -> bool {
        self.flag("add_eos_token").unwrap_or(false)
    }

    pub(super) fn adds_prefix_space(&self) -> Option<bool> {
        self.flag("add_prefix_space")
    }

    /// Whether special tokens within a text are followed by a space that is not there, as older versions did it.
    pub(super) fn is_legacy(&self) -> bool {
        self.flag("legacy").unwrap_or(false)
    }

    /// The class in transformers, without the ending that once told two kinds apart.
    pub(super) fn class(&self) -> Option<&str> {
        let class = self.config.get("tokenizer_class")?.as_str()?;
        Some(class.strip_suffix("Fast").unwrap_or(class))
    }

    pub(super) fn chat_template(&self) -> Option<&Value> {
        self.config.get("chat_template").filter(|value| !value.is_null())
    }

    /// The added tokens with their numbers, in the order of these.
    pub(super) fn added(&self) -> Result<Vec<(u32, Added)>, Error> {
        let Some(Value::Object(listed)) = self.config.get("added_tokens_decoder") else { return Ok(Vec::new()) };
        let token = |(id, value): (&String, &Value)| {
            let bad = |reason: String| Error::BadTokenizer {
                file: CONFIG.into(),
                reason: format!("added_tokens_decoder.{id}: {reason}"),
            };
            let number = id.parse().map_err(|_| bad("it is not the number of a token".into()))?;
            Ok((number, serde_json::from_value(value.clone()).map_err(|error| bad(error.to_string()))?))
        };
        let mut added: Vec<(u32, Added)> = listed.iter().map(token).collect::<Result<_, Error>>()?;
        added.sort_by_key(|(id, _)| *id);
        Ok(added)
    }

    /// Further special tokens, beside the named ones.
    pub(super) fn further(&self) -> Vec<&str> {
        let keys = ["additional_special_tokens", "extra_special_tokens"];
        let lists = keys.iter().flat_map(|key| [self.config.get(*key), self.special.get(*key)]);
        let lists = lists.flatten().filter_map(Value::as_array);
        lists.flatten().filter_map(content).collect()
    }
}

/// The text of a token that is written as a text or as an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
