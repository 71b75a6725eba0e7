//! What single model families need in their tokenizer metadata beyond what their files say.
//!
//! Each rule is one that the reference converter has for the family too. It knows families by the
//! `model_type` of `config.json`.

use serde_json::Value;

use super::{
    special::{Part, Special},
    vocabulary::Vocabulary,
};

/// Applies the family's rules.
pub(super) fn adjust(config: &Value, vocabulary: &Vocabulary, special: &mut Special) {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let has = |id: u32, text: &str| vocabulary.get(id).is_some_and(|token| token.text == text);
    match model_type {
        "llama" => {
            // Code Llama's end of infilling, which llama.cpp does not know by its text.
            if vocabulary.rows() == 32_016 && has(32_010, "▁<EOT>") {
                special.ids.set_default(Part::Eot, 32_010);
            }
            // Granite's code models have the flag set in their files but were trained without a BOS.
            if vocabulary.rows() == 49_152 {
                special.adds.set(Part::Bos, false);
            }
        }
        "gemma" if has(107, "<end_of_turn>") => special.ids.set_default(Part::Eot, 107),
        // The chat models end with another token than their files say.
        "internlm2" | "internlm3" => {
            if let Some(id) = vocabulary.find("<|im_end|>").filter(|_| special.ids.get(Part::Eos).is_some()) {
                special.ids.set(Part::Eos, id);
            }
        }
        "glm" | "glm4" => {
            name(vocabulary, special, &[(Part::Bos, "<|endoftext|>"), (Part::Eos, "<|endoftext|>")]);
            name(vocabulary, special, &[(Part::Eot, "<|user|>"), (Part::Unk, "<|endoftext|>")]);
        }
        "chatglm" | "glm4_moe" => {
            name(vocabulary, special, &[(Part::Bos, "[gMASK]"), (Part::Eot, "<|user|>")]);
            name(vocabulary, special, &[(Part::Unk, "<|endoftext|>"), (Part::Eom, "<|observation|>")]);
        }
        _ => {}
    }
}

/// Gives parts that have no token yet the tokens with these texts.
fn name(vocabulary: &Vocabulary, special: &mut Special, texts: &[(Part, &str)]) {
    for &(part, text) in texts {
        if let Some(id) = vocabulary.find(text) {
            special.ids.set_default(part, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            special::Parts,
            vocabulary::{Token, TokenType},
        },
        *,
    };

    /// A vocabulary of that many rows, and what the family `llama` makes of it.
    fn adjusted(rows: u64, tokens: &[(u32, &str)], model_type: &str) -> Special {
        let mut vocabulary = Vocabulary::new(rows).unwrap();
        for &(id, text) in tokens {
            vocabulary.set(id, Token { text: text.to_owned(), score: 0.0, kind: TokenType::Control });
        }
        let mut special = Special::default();
        special.adds.set(Part::Bos, true);
        adjust(&json!({"model_type": model_type}), &vocabulary, &mut special);
        special
    }

    #[test]
    fn code_llama_s_end_of_infilling_is_told() {
        let eot = |special: Special| special.ids.get(Part::Eot).copied();
        assert_eq!(eot(adjusted(32_016, &[(32_010, "▁<EOT>")], "llama")), Some(32_010));
        assert_eq!(eot(adjusted(32_016, &[(32_010, "word")], "llama")), None);
        assert_eq!(eot(adjusted(32_017, &[(32_010, "▁<EOT>")], "llama")), None);
        assert_eq!(eot(adjusted(32_016, &[(32_010, "▁<EOT>")], "qwen2")), None);
    }

    #[test]
    fn the_ends_that_families_have_are_told() {
        let ids = |tokens: &[(u32, &str)], model_type| adjusted(200, tokens, model_type).ids;
        assert_eq!(ids(&[(107, "<end_of_turn>")], "gemma").get(Part::Eot), Some(&107));
        assert_eq!(ids(&[(107, "word")], "gemma").get(Part::Eot), None);
        let glm = [(1, "<|endoftext|>"), (2, "[gMASK]"), (3, "<|user|>"), (4, "<|observation|>")];
        let parts = |ids: &Parts<u32>| [Part::Bos, Part::Eos, Part::Eot, Part::Eom].map(|part| ids.get(part).copied());
        assert_eq!(parts(&ids(&glm, "glm4")), [Some(1), Some(1), Some(3), None]);
        assert_eq!(parts(&ids(&glm, "glm4_moe")), [Some(2), None, Some(3), Some(4)]);
        assert_eq!(parts(&ids(&glm, "llama")), [None; 4]);
    }

    #[test]
    fn internlm_ends_with_its_chat_s_token() {
        let mut vocabulary = Vocabulary::new(9).unwrap();
        vocabulary.set(5, Token { text: "<|im_end|>".to_owned(), score: 0.0, kind: TokenType::Control });
        let mut special = Special::default();
        adjust(&json!({"model_type": "internlm3"}), &vocabulary, &mut special);
        assert_eq!(special.ids.get(Part::Eos), None);
        special.ids.set(Part::Eos, 2);
        adjust(&json!({"model_type": "internlm3"}), &vocabulary, &mut special);
        assert_eq!(special.ids.get(Part::Eos), Some(&5));
    }

    #[test]
    fn granite_s_code_models_get_no_bos() {
        assert_eq!(adjusted(49_152, &[], "llama").adds.get(Part::Bos), Some(&false));
        assert_eq!(adjusted(49_153, &[], "llama").adds.get(Part::Bos), Some(&true));
        assert_eq!(adjusted(49_152, &[], "mistral").adds.get(Part::Bos), Some(&true));
    }
}
