//! Which part of a checkpoint is the language model: its config, and the names of its tensors as the
//! family table has them.
//!
//! It knows how transformers nests one model in another; it knows no family.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Family;
use crate::source::StoredTensor;

/// The config of the text part of a multimodal model.
const TEXT_CONFIG: &str = "text_config";

/// What transformers puts before the names of the language model's tensors, and what the text model alone
/// has there: transformers 4, and 5.
const NESTED: [(&str, &str); 4] = [
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
];

/// The names of buffers and heads are not under a base model's root.
const OUTSIDE: [&str; 2] = ["lm_head.", "embed_out."];

/// The config of the language model: the text part's keys over the outer ones.
///
/// Gives whether it is a part of something larger.
pub(super) fn config(outer: &Value) -> (Value, bool) {
    match (outer, outer.get(TEXT_CONFIG)) {
        (Value::Object(outer), Some(Value::Object(text))) if text.contains_key("model_type") => {
            let mut config = outer.clone();
            config.remove(TEXT_CONFIG);
            // The class is that of the whole; the model type tells the family.
            config.remove("architectures");
            config.extend(text.iter().map(|(key, value)| (key.clone(), value.clone())));
            (Value::Object(config), true)
        }
        _ => (outer.clone(), false),
    }
}

/// The config with what the family assumes for keys that are absent.
pub(super) fn completed(config: Value, family: &Family) -> Value {
    let defaults: Map<String, Value> = serde_json::from_str(family.defaults).unwrap_or_default();
    match config {
        Value::Object(mut config) => {
            // transformers 4 writes it for no scaling, transformers 5 takes it for nothing said.
            if config.get("rope_scaling").is_some_and(Value::is_null) {
                config.remove("rope_scaling");
            }
            for (key, value) in defaults {
                config.entry(key).or_insert(value);
            }
            Value::Object(config)
        }
        other => other,
    }
}

/// The tensors of the language model under the names of the family table.
#[derive(Debug)]
pub(super) struct Names<'a> {
    /// By the table's name, the tensor's index.
    pub(super) known: BTreeMap<String, (usize, &'a StoredTensor)>,
    /// What is of other parts: how many tensors, by the first words of their names.
    pub(super) left_out: BTreeMap<String, usize>,
}

impl<'a> Names<'a> {
    /// Names every tensor; `nested` is what [`config`] told.
    pub(super) fn of(tensors: &'a [StoredTensor], family: &Family, nested: bool) -> Self {
        let root = family.root.filter(|root| !tensors.iter().any(|tensor| tensor.name.starts_with(root)));
        // A multimodal model that was trained from a text model may keep the text model's own names.
        let nested = nested && tensors.iter().any(|tensor| tensor.name.contains("language_model."));
        let mut names = Self { known: BTreeMap::new(), left_out: BTreeMap::new() };
        for (index, tensor) in tensors.iter().enumerate() {
            let name = tensor.name.as_str();
            let named = if nested { unnested(name) } else { Some(rooted(name, root)) };
            match named {
                Some(named) => drop(names.known.insert(named, (index, tensor))),
                None => *names.left_out.entry(module(name)).or_default() += 1,
            }
        }
        names
    }
}

fn unnested(name: &str) -> Option<String> {
    let found = NESTED.iter().find_map(|(nested, alone)| Some((alone, name.strip_prefix(nested)?)));
    found.map(|(alone, rest)| format!("{alone}{rest}"))
}

fn rooted(name: &str, root: Option<&str>) -> String {
    match root {
        Some(root) if !OUTSIDE.iter().any(|outside| name.starts_with(outside)) => format!("{root}{name}"),
        _ => name.to_owned(),
    }
}

/// The module that a tensor belongs to, as a user knows it: `vision_tower`, `multi_modal_projector`.
fn module(name: &str) -> String {
    let mut words = name.split('.').filter(|word| *word != "model");
    words.next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::find, *};

    fn stored(names: &[&str]) -> Vec<StoredTensor> {
        let tensor = |name: &&str| StoredTensor {
            name: (*name).to_owned(),
            shard: 0,
            dtype: "BF16".into(),
            shape: vec![],
            offset: 0,
            bytes: 2,
        };
        names.iter().map(tensor).collect()
    }

    #[test]
    fn the_text_part_has_the_last_word_in_the_config() {
        let outer = json!({"model_type": "gemma3", "architectures": ["X"], "eos_token_id": [1, 106],
            "text_config": {"model_type": "gemma3_text", "hidden_size": 64}, "vision_config": {"hidden_size": 9}});
        let (config, nested) = config(&outer);
        assert!(nested);
        assert_eq!((&config["model_type"], &config["hidden_size"]), (&json!("gemma3_text"), &json!(64)));
        assert_eq!(config["eos_token_id"], json!([1, 106]));
        assert!(config.get("architectures").is_none());
        let completed = completed(config, find(Some("gemma3_text"), None).unwrap());
        assert_eq!((&completed["head_dim"], &completed["hidden_size"]), (&json!(256), &json!(64)));
    }

    #[test]
    fn a_scaling_of_null_is_what_the_class_assumes() {
        let family = find(Some("gpt_oss"), None).unwrap();
        let null = completed(json!({"rope_scaling": null, "sliding_window": null}), family);
        assert_eq!((&null["rope_scaling"]["rope_type"], &null["sliding_window"]), (&json!("yarn"), &Value::Null));
    }

    #[test]
    fn both_ways_of_nesting_give_the_names_of_the_text_model() {
        let family = find(Some("gemma3_text"), None).unwrap();
        for (tensors, head) in [
            (["language_model.model.norm.weight", "vision_tower.a.weight", "language_model.lm_head.weight"], true),
            (["model.language_model.norm.weight", "model.vision_tower.a.weight", "lm_head.weight"], true),
            (["model.norm.weight", "model.a.weight", "lm_head.weight"], false),
        ] {
            let tensors = stored(&tensors);
            let names = Names::of(&tensors, family, true);
            assert!(names.known.contains_key("model.norm.weight") && names.known.contains_key("lm_head.weight"));
            assert_eq!(names.left_out.get("vision_tower"), head.then_some(&1));
        }
    }

    #[test]
    fn a_base_model_s_names_get_their_root() {
        let family = find(Some("gpt2"), None).unwrap();
        let tensors = stored(&["wte.weight", "h.0.ln_1.weight", "lm_head.weight"]);
        let names = Names::of(&tensors, family, false);
        let known: Vec<_> = names.known.keys().map(String::as_str).collect();
        assert_eq!(known, ["lm_head.weight", "transformer.h.0.ln_1.weight", "transformer.wte.weight"]);
    }
}
