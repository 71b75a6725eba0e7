//! `config.json` of a folder of floats: the source's, with the type of the weights and without a word of other ways to
//! store them. Of a larger model it is that of the language model alone.

use qhost_folder::{CONFIG, Object};
use qhost_plugin_api::{
    documents::Model,
    sdk::{Failure, FilesHandle, Result},
};

use crate::float_type::FloatType;

/// What says how weights are stored that are no floats.
const QUANTIZATION: &str = "quantization_config";

/// What says how a model was packed by a library that loaders look for (`compressed-tensors` of older versions).
const COMPRESSION: &str = "compression_config";

/// The config of the language model in a larger one.
const TEXT_CONFIG: &str = "text_config";

/// The keys for the type of the weights: that of transformers since 4.56, and the one before, which every version reads.
const TYPES: [&str; 2] = ["dtype", "torch_dtype"];

/// Keys of the larger model that hold for its language model too.
const SHARED: [&str; 4] = ["bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"];

/// The source's config.
#[derive(Debug, Clone)]
pub(crate) struct SourceConfig {
    /// The whole of it.
    outer: Object,
    /// That of the language model, where it is a part.
    text: Option<Object>,
}

impl SourceConfig {
    /// Reads the model's config, which is a small file of it or has come with it.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when it is no JSON object.
    pub(crate) fn read(model: &Model, files: &FilesHandle) -> Result<Self> {
        let outer = match files.length(CONFIG) {
            Some(_) => Object::config(files)?,
            None => serde_json::to_string_pretty(&model.config)
                .and_then(|text| serde_json::from_str(&text))
                .map_err(|error| Failure::corrupt(format!("is no object: {error}")).about(CONFIG))?,
        };
        let text = outer.object(TEXT_CONFIG).filter(|text| text.get::<String>("model_type").is_some());
        Ok(Self { outer, text })
    }

    /// Whether the language model is a part of something larger.
    pub(crate) fn is_nested(&self) -> bool {
        self.text.is_some()
    }

    /// Whether the source stores some weights in another way than as floats.
    pub(crate) fn tells_of_quantisation(&self) -> bool {
        let told = |object: &Object| object.get::<Object>(QUANTIZATION).is_some();
        told(&self.outer) || self.text.as_ref().is_some_and(told)
    }

    /// The config of the folder, as text.
    ///
    /// # Errors
    /// Does not fail.
    pub(crate) fn of_folder(&self, model: &Model, level: FloatType) -> Result<String> {
        let mut config = match &self.text {
            Some(text) => self.of_text(text, model)?,
            None => self.outer.clone(),
        };
        config.remove(QUANTIZATION);
        config.remove(COMPRESSION);
        let mut told = false;
        for key in TYPES {
            if config.entries().any(|(known, _)| known == key) {
                config.set(key, &level.config_name())?;
                told = true;
            }
        }
        if !told {
            config.set(TYPES[1], &level.config_name())?;
        }
        Ok(config.text() + "\n")
    }

    /// The language model's own config, with what the larger model says for it.
    fn of_text(&self, text: &Object, model: &Model) -> Result<Object> {
        let mut config = text.clone();
        let mut shared = Object::default();
        for key in SHARED {
            if let Some(value) = self.outer.get::<serde_json::Value>(key) {
                shared.set(key, &value)?;
            }
        }
        config.extend(&shared);
        config.set("tie_word_embeddings", &model.hyperparameters.tied_embeddings)?;
        let model_type: Option<String> = config.get("model_type");
        if let (None, Some(model_type)) = (config.get::<Vec<String>>("architectures"), model_type) {
            config.set("architectures", &[class(&model_type)])?;
        }
        Ok(config)
    }
}

/// The class of a language model in transformers, which is called like its type: `gemma3_text` is `Gemma3ForCausalLM`.
fn class(model_type: &str) -> String {
    let words = model_type.strip_suffix("_text").unwrap_or(model_type).split('_');
    let capitalised = words.map(|word| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect::<String>())
    });
    capitalised.collect::<String>() + "ForCausalLM"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceConfig {
        let outer: Object = serde_json::from_str(text).unwrap();
        let text = outer.object(TEXT_CONFIG);
        SourceConfig { outer, text }
    }

    fn made(text: &str) -> String {
        source(text).of_folder(&Model::new("m", "llama"), FloatType::F16).unwrap()
    }

    #[test]
    fn types_are_set_in_their_places_and_nothing_else_is_changed() {
        let before =
            "{\n  \"a\": 1e-05,\n  \"dtype\": \"bfloat16\",\n  \"b\": {\n    \"c\": [\n      1\n    ]\n  }\n}\n";
        assert_eq!(made(before), before.replace("bfloat16", "float16"));
        let both = "{\n  \"torch_dtype\": \"bfloat16\",\n  \"dtype\": \"float32\"\n}\n";
        assert_eq!(made(both), "{\n  \"torch_dtype\": \"float16\",\n  \"dtype\": \"float16\"\n}\n");
        assert_eq!(made("{}"), "{\n  \"torch_dtype\": \"float16\"\n}\n");
    }

    #[test]
    fn nothing_is_said_of_how_the_source_was_stored() {
        let config = source("{\"quantization_config\": {\"quant_method\": \"fp8\"}, \"dtype\": \"float16\"}");
        assert!(config.tells_of_quantisation() && !config.is_nested());
        assert!(!source("{\"quantization_config\": null}").tells_of_quantisation());
        let made = config.of_folder(&Model::new("m", "llama"), FloatType::BF16).unwrap();
        assert_eq!(made, "{\n  \"dtype\": \"bfloat16\"\n}\n");
    }

    #[test]
    fn of_a_larger_model_the_language_model_s_config_is_taken() {
        let outer = "{\n  \"model_type\": \"gemma3\",\n  \"architectures\": [\"X\"],\n  \"eos_token_id\": [1, 106],\n  \"dtype\": \"float32\",\n  \"text_config\": {\n    \"model_type\": \"gemma3_text\",\n    \"dtype\": \"bfloat16\",\n    \"rope\": {\n      \"a\": 1\n    }\n  }\n}";
        let config: serde_json::Value = serde_json::from_str(&made(outer)).unwrap();
        let expected = serde_json::json!({
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "eos_token_id": [1, 106],
            "dtype": "float16", "rope": {"a": 1}, "tie_word_embeddings": false,
        });
        assert_eq!(config, expected);
        assert!(made(outer).contains("  \"rope\": {\n    \"a\": 1\n  }"));
    }

    #[test]
    fn classes_are_called_like_types() {
        for (model_type, expected) in [("mistral", "MistralForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM")] {
            assert_eq!(class(model_type), expected);
        }
    }
}
