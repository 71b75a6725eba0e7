//! Reading `config.json` of transformers 4 and 5 into hyperparameters with common names.
//!
//! The names of keys are transformers'; what a family does with a value is not known here.

use qhost_plugin_api::documents::{Hyperparameters, Rope};
use serde_json::{Map, Value};

use super::{Error, Family};

/// No model comes near these; a config that passes them lies, and would only cost memory.
const MOST_LAYERS: u64 = 100_000;
const MOST_HEADS: u64 = 1 << 20;
const WIDEST: u64 = 1 << 32;

/// Reads the hyperparameters of a decoder with the usual keys.
pub(super) fn read(config: &Value, family: &Family) -> Result<Hyperparameters, Error> {
    let keys = Keys { config };
    let hidden_size = keys.size("hidden_size", WIDEST)?;
    let heads = keys.size("num_attention_heads", MOST_HEADS)?;
    let kv_heads = keys.optional_size("num_key_value_heads", MOST_HEADS)?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(keys.bad("num_key_value_heads", "which does not divide num_attention_heads"));
    }
    let explicit_head_dim = keys.optional_size("head_dim", WIDEST)?;
    let head_dim = match explicit_head_dim {
        Some(head_dim) => head_dim,
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(keys.bad("hidden_size", "which num_attention_heads does not divide")),
    };
    Ok(Hyperparameters {
        layers: narrow(keys.size("num_hidden_layers", MOST_LAYERS)?),
        hidden_size,
        ffn_size: keys.size("intermediate_size", WIDEST)?,
        heads: narrow(heads),
        kv_heads: narrow(kv_heads),
        head_dim,
        head_dim_explicit: explicit_head_dim.is_some(),
        vocab_size: keys.size("vocab_size", WIDEST)?,
        context_length: keys.size("max_position_embeddings", WIDEST)?,
        norm_epsilon: keys.positive("rms_norm_eps")?,
        rope: read_rope(&keys)?,
        sliding_window: read_window(&keys)?,
        tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(family.tied_by_default),
    })
}

/// transformers 5 has everything in `rope_parameters`; transformers 4 has `rope_theta` beside
/// `rope_scaling`, whose kind was once called `type`.
fn read_rope(keys: &Keys<'_>) -> Result<Rope, Error> {
    let mut parameters = match keys.get("rope_parameters").or_else(|| keys.get("rope_scaling")) {
        Some(Value::Object(map)) => map.clone(),
        None => Map::new(),
        Some(_) => return Err(keys.bad("rope_scaling", "not an object")),
    };
    let theta = match parameters.remove("rope_theta").or_else(|| keys.get("rope_theta").cloned()) {
        None => 10_000.0,
        Some(value) => value.as_f64().filter(|theta| theta.is_finite() && *theta > 0.0).ok_or_else(|| {
            Error::BadKey { key: "rope_theta", value: value.to_string(), reason: "not a positive number" }
        })?,
    };
    let kind = match parameters.remove("rope_type").or_else(|| parameters.remove("type")) {
        None => "default".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(other) => {
            return Err(Error::BadKey { key: "rope_type", value: other.to_string(), reason: "not a name" });
        }
    };
    parameters.remove("type");
    Ok(Rope { theta, kind, parameters })
}

/// `use_sliding_window: false` switches off a window that is stated.
fn read_window(keys: &Keys<'_>) -> Result<Option<u64>, Error> {
    let in_use = keys.flag("use_sliding_window")?.unwrap_or(true);
    Ok(keys.optional_size("sliding_window", WIDEST)?.filter(|_| in_use))
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Typed access to the top level of `config.json`, where null means absent.
struct Keys<'a> {
    config: &'a Value,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &'static str, reason: &'static str) -> Error {
        let value = self.config.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::BadKey { key, value, reason }
    }

    fn optional_size(&self, key: &'static str, most: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if size > 0 && size <= most => Ok(Some(size)),
            _ => Err(self.bad(key, "not a sensible positive whole number")),
        }
    }

    fn size(&self, key: &'static str, most: u64) -> Result<u64, Error> {
        self.optional_size(key, most)?.ok_or(Error::MissingKey { key })
    }

    fn positive(&self, key: &'static str) -> Result<f64, Error> {
        let value = self.get(key).ok_or(Error::MissingKey { key })?;
        value
            .as_f64()
            .filter(|value| value.is_finite() && *value > 0.0)
            .ok_or_else(|| self.bad(key, "not a positive number"))
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>, Error> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.bad(key, "neither true nor false"))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> Value {
        json!({
            "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8, "num_hidden_layers": 5,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "vocab_size": 512,
        })
    }

    fn read(config: &Value) -> Result<Hyperparameters, Error> {
        super::read(config, super::super::find(Some("llama"), None).unwrap())
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = config();
        config[key] = value;
        config
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let model = read(&config()).unwrap();
        assert_eq!((model.kv_heads, model.head_dim, model.head_dim_explicit), (8, 8, false));
        assert_eq!((model.rope.theta, model.rope.kind.as_str()), (10_000.0, "default"));
        assert_eq!((model.sliding_window, model.tied_embeddings), (None, false));
    }

    #[test]
    fn rope_reads_the_same_from_both_generations_of_transformers() {
        let mut old = with("rope_theta", json!(500_000.0));
        old["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        let new = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}));
        assert_eq!(read(&old).unwrap().rope, read(&new).unwrap().rope);
        assert_eq!(read(&new).unwrap().rope.parameters["factor"], json!(2.0));
    }

    #[test]
    fn a_window_that_is_switched_off_is_absent() {
        let mut config = with("sliding_window", json!(16));
        assert_eq!(read(&config).unwrap().sliding_window, Some(16));
        config["use_sliding_window"] = json!(false);
        assert_eq!(read(&config).unwrap().sliding_window, None);
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (key, value) in [
            ("hidden_size", json!(0)),
            ("hidden_size", json!("64")),
            ("num_hidden_layers", json!(-1)),
            ("num_hidden_layers", json!(1u64 << 40)),
            ("num_key_value_heads", json!(3)),
            ("rms_norm_eps", json!(0)),
            ("rope_theta", json!("big")),
            ("tie_word_embeddings", json!(1)),
        ] {
            match read(&with(key, value.clone())) {
                Err(Error::BadKey { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key} = {value}: {other:?}"),
            }
        }
        let mut config = config();
        config.as_object_mut().unwrap().remove("vocab_size");
        assert!(matches!(read(&config), Err(Error::MissingKey { key: "vocab_size" })));
    }
}
