//! The recommended sampling, as `generation_config.json` has it: the keys `general.sampling.*` read backwards.
//!
//! It knows transformers' names; what llama.cpp alone has keeps its own.

use serde_json::{Map, Value as Json};

use super::facts::decimal;
use crate::metadata::{Metadata, Value};

/// Names in GGUF and in transformers.
const NAMES: [(&str, &str); 12] = [
    ("sequence", "sequence"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("xtc_probability", "xtc_probability"),
    ("xtc_threshold", "xtc_threshold"),
    ("temp", "temperature"),
    ("penalty_last_n", "penalty_last_n"),
    ("penalty_repeat", "repetition_penalty"),
    ("mirostat", "mirostat"),
    ("mirostat_tau", "mirostat_tau"),
    ("mirostat_eta", "mirostat_eta"),
];

/// Settings of a sampler; transformers takes them only beside the word that it is to sample.
const OF_A_SAMPLER: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];

/// The keys of `generation_config.json` that the file tells.
pub(super) fn sampling(metadata: &Metadata) -> Map<String, Json> {
    let mut told = Map::new();
    for (key, name) in NAMES {
        let value = match metadata.get(&format!("general.sampling.{key}")) {
            Some(Value::F32(number)) if number.is_finite() => decimal(*number).into(),
            Some(Value::I32(number)) => (*number).into(),
            Some(Value::String(text)) => text.as_str().into(),
            _ => continue,
        };
        told.insert(name.to_owned(), value);
    }
    if OF_A_SAMPLER.iter().any(|name| told.contains_key(*name)) {
        told.insert("do_sample".into(), true.into());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sampling_is_told_in_the_words_of_transformers() {
        let mut metadata = Metadata::new();
        assert_eq!(sampling(&metadata), Map::new());
        metadata.push("general.sampling.penalty_repeat", 1.05_f32).unwrap();
        assert_eq!(Json::from(sampling(&metadata)), serde_json::json!({"repetition_penalty": 1.05}));
        metadata.push("general.sampling.temp", 0.7_f32).unwrap();
        metadata.push("general.sampling.top_k", 20_i32).unwrap();
        let told = serde_json::json!({"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "do_sample": true});
        assert_eq!(Json::from(sampling(&metadata)), told);
    }
}
