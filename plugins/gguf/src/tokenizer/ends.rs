//! The tokens that end an answer, where a model has more than one.
//!
//! It knows which ends llama.cpp finds by itself, and asks the files for those of the model.

use serde_json::Value;

use super::{
    special::{Part, Sources, Special},
    vocabulary::Vocabulary,
};

/// The texts at which llama.cpp ends without being told (`llama-vocab.cpp`, `special_eog_ids`, as vendored by
/// llama-cpp-sys-2 0.1.161).
pub(crate) const KNOWN_ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

impl Special {
    /// llama.cpp ends a text at tokens with certain texts and at three that a file may name. Where the model ends
    /// at others, too, they are named as the end of a turn and of a message.
    pub(super) fn name_further_ends(
        &mut self,
        sources: &Sources<'_>,
        vocabulary: &Vocabulary,
        warnings: &mut Vec<String>,
    ) {
        let generation = sources.generation_config.get("eos_token_id");
        let config = sources.config.get("eos_token_id");
        let listed = [generation, config].into_iter().flatten().filter_map(Value::as_array).flatten();
        let mut left_out = Vec::new();
        for id in listed.filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()) {
            let Some(token) = vocabulary.get(id) else { continue };
            let ends = [Part::Eos, Part::Eot, Part::Eom];
            let named = ends.into_iter().any(|part| self.ids.get(part) == Some(&id));
            if named || KNOWN_ENDS.contains(&token.text.as_str()) || left_out.contains(&id) {
                continue;
            }
            match [Part::Eot, Part::Eom].into_iter().find(|&part| self.ids.get(part).is_none()) {
                Some(part) => self.ids.set(part, id),
                None => left_out.push(id),
            }
        }
        if let Some(&id) = left_out.first() {
            let text = vocabulary.get(id).map_or("", |token| &token.text);
            warnings.push(format!(
                "the model ends its answers with more tokens than a file can name, such as {text:?} (id {id}): \
                 llama.cpp will not stop there by itself"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::{
        super::{
            hugging_face::TokenizerConfig,
            vocabulary::{Token, TokenType},
        },
        *,
    };

    /// The ends that are named for a list of `generation_config.json`, over the tokens "t0" to "t9"; number 7
    /// is one that llama.cpp knows.
    fn named(listed: &Value) -> (Vec<Option<u32>>, usize) {
        let mut vocabulary = Vocabulary::new(10).unwrap();
        for id in 0..10 {
            let text = if id == 7 { "<|eot_id|>".to_owned() } else { format!("t{id}") };
            vocabulary.set(id, Token { text, score: 0.0, kind: TokenType::Control });
        }
        let mut generation_config = Map::new();
        generation_config.insert("eos_token_id".to_owned(), listed.clone());
        let sources = Sources {
            tokenizer_config: &TokenizerConfig::default(),
            special_tokens_map: &Map::new(),
            post_processor: None,
            config: &json!({"eos_token_id": 8}),
            generation_config: &generation_config,
        };
        let mut special = Special::default();
        special.ids.set(Part::Eos, 8);
        let mut warnings = Vec::new();
        special.name_further_ends(&sources, &vocabulary, &mut warnings);
        ([Part::Eos, Part::Eot, Part::Eom].map(|part| special.ids.get(part).copied()).to_vec(), warnings.len())
    }

    #[test]
    fn ends_that_llama_cpp_would_not_know_are_named() {
        assert_eq!(named(&json!(8)), (vec![Some(8), None, None], 0));
        assert_eq!(named(&json!([8, 7])), (vec![Some(8), None, None], 0));
        assert_eq!(named(&json!([8, 3, 7, 4, 3])), (vec![Some(8), Some(3), Some(4)], 0));
        assert_eq!(named(&json!([1, 2, 3, 99])), (vec![Some(8), Some(1), Some(2)], 1));
    }
}
