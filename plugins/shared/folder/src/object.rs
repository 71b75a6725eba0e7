//! JSON objects whose keys have an order: `config.json` as it is written, with keys that are put in.
//!
//! The digits of the numbers stay too: what is not changed is the same text.

use std::fmt;

use qhost_plugin_api::sdk::{Failure, FilesHandle, Result};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::CONFIG;

/// The keys of a JSON object in their order, each with the text of its value.
#[derive(Debug, Clone, Default)]
pub struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// Reads the model's config.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when it is absent or no JSON object.
    pub fn config(companions: &FilesHandle) -> Result<Self> {
        let config = companions.read_json(CONFIG)?;
        config.ok_or_else(|| Failure::corrupt("the model has none").about(CONFIG))
    }

    /// The keys and the texts of their values.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.get()))
    }

    /// The value of a key; none if it is not there, or of another kind.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        serde_json::from_str(value.get()).ok()
    }

    /// The object that is a key's value, as if it stood alone.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Self> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        // One level less deep; a string has no line ends of its own.
        serde_json::from_str(&value.get().replace("\n  ", "\n")).ok()
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(known, _)| known != key);
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a key a value: in its place, or after all others.
    ///
    /// # Errors
    /// Fails when the value cannot be JSON.
    pub fn set(&mut self, key: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
        self.set_text(key, &text)
    }

    /// Gives a key an object.
    ///
    /// # Errors
    /// Does not fail.
    pub fn set_object(&mut self, key: &str, value: &Self) -> Result<()> {
        self.set_text(key, &value.text())
    }

    /// Takes the keys of another that are not there yet, after its own.
    pub fn extend(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            if !self.0.iter().any(|(known, _)| known == key) {
                self.0.push((key.clone(), value.clone()));
            }
        }
    }

    fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        // It is one level deeper here; a string has no line ends of its own.
        let value = RawValue::from_string(text.replace('\n', "\n  "));
        let value = value.map_err(|error| Failure::internal(error.to_string()))?;
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// The text of it, without a line end.
    #[must_use]
    pub fn text(&self) -> String {
        if self.0.is_empty() {
            return "{}".into();
        }
        let keys =
            self.0.iter().map(|(key, value)| format!("  {}: {}", serde_json::Value::from(key.as_str()), value.get()));
        let keys: Vec<_> = keys.collect();
        format!("{{\n{}\n}}", keys.join(",\n"))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Object, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Object(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_numbers_their_digits() {
        let source = "{\"z\": 1e-05, \"a\": {\n    \"y\": 10000.0,\n    \"b\": []\n  }, \"n\": null}";
        let mut config: Object = serde_json::from_str(source).unwrap();
        let mut inner = Object::default();
        inner.set("bits", &4).unwrap();
        config.set_object("q", &inner).unwrap();
        let expected = "{\n  \"z\": 1e-05,\n  \"a\": {\n    \"y\": 10000.0,\n    \"b\": []\n  },\n  \"n\": null,\n  \"q\": {\n    \"bits\": 4\n  }\n}";
        assert_eq!(config.text(), expected);
        config.set("z", &2).unwrap();
        assert!(config.text().starts_with("{\n  \"z\": 2,"));
    }

    #[test]
    fn an_object_within_stands_alone_as_it_was_before_it_was_put_in() {
        let mut inner: Object = serde_json::from_str("{\"a\": [\n  1\n], \"b\": 1e-05}").unwrap();
        let mut outer = Object::default();
        outer.set_object("q", &inner).unwrap();
        assert_eq!(outer.object("q").unwrap().text(), inner.text());
        assert_eq!((inner.get::<f64>("b"), inner.get::<String>("b"), inner.get::<f64>("c")), (Some(1e-5), None, None));
        inner.remove("a");
        assert_eq!(inner.text(), "{\n  \"b\": 1e-05\n}");
        assert!(outer.object("a").is_none());
    }

    #[test]
    fn anything_but_an_object_is_refused() {
        assert!(serde_json::from_str::<Object>("[1]").is_err());
        assert!(serde_json::from_str::<Object>("{\"a\": }").is_err());
    }
}
