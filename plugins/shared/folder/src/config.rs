//! `config.json` as it is written, with keys that are put in and taken out.
//!
//! The order of the keys and the digits of the numbers stay: what is not changed is the same text.

use std::fmt;

use qhost_plugin_api::sdk::{Failure, FilesHandle, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::CONFIG;

/// The keys of a JSON object in their order, each with the text of its value.
#[derive(Debug)]
pub struct Config(Vec<(String, Box<RawValue>)>);

impl Config {
    /// Reads the model's config.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when it is absent or no JSON object.
    pub fn read(companions: &FilesHandle) -> Result<Self> {
        let config = companions.read_json(CONFIG)?;
        config.ok_or_else(|| Failure::corrupt("the model has none").about(CONFIG))
    }

    /// Whether there is a value, other than `null`, for the key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, value)| known == key && value.get() != "null")
    }

    /// Gives a key a value: in its place, or after all others.
    ///
    /// # Errors
    /// Fails when the value is no JSON.
    pub fn set(&mut self, key: &str, value: &serde_json::Value) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
        // It is one level deeper here.
        let value = RawValue::from_string(text.replace('\n', "\n  "));
        let value = value.map_err(|error| Failure::internal(error.to_string()))?;
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let keys = self.0.iter().map(|(key, value)| format!("  {}: {}", serde_json::Value::from(key.as_str()), value.get()));
        let keys: Vec<_> = keys.collect();
        format!("{{\n{}\n}}\n", keys.join(",\n"))
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Config, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Config(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_keep_their_order_and_numbers_their_digits() {
        let source = "{\"z\": 1e-05, \"a\": {\n    \"y\": 10000.0,\n    \"b\": []\n  }, \"n\": null}";
        let mut config: Config = serde_json::from_str(source).unwrap();
        assert!(config.has("z") && !config.has("n") && !config.has("q"));
        config.set("q", &json!({"bits": 4})).unwrap();
        let expected = "{\n  \"z\": 1e-05,\n  \"a\": {\n    \"y\": 10000.0,\n    \"b\": []\n  },\n  \"n\": null,\n  \"q\": {\n    \"bits\": 4\n  }\n}\n";
        assert_eq!(config.text(), expected);
        config.set("z", &json!(2)).unwrap();
        assert!(config.text().starts_with("{\n  \"z\": 2,"));
    }

    #[test]
    fn anything_but_an_object_is_refused() {
        assert!(serde_json::from_str::<Config>("[1]").is_err());
        assert!(serde_json::from_str::<Config>("{\"a\": }").is_err());
    }
}
