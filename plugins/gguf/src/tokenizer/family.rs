//! What single model families need in their tokenizer metadata beyond what their files say.
//!
//! Each rule is one that the reference converter has for the family too. It knows families by the
//! `model_type` of `config.json`.

use serde_json::Value;

use super::{
    special::{Part, Special},
    vocabulary::{TokenType, Vocabulary},
};

/// Applies the family's rules.
pub(super) fn adjust(config: &Value, vocabulary: &Vocabulary, special: &mut Special) {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let mut by_text = |part: Part, text: &str| {
        if let Some(id) = vocabulary.find(text) {
            special.ids.set_default(part, id);
        }
    };
    match model_type {
        // A GLM turn ends where the user's begins; the files name no such token.
        "glm4" => {
            by_text(Part::Eos, "<|endoftext|>");
            by_text(Part::Eot, "<|user|>");
            by_text(Part::Unk, "<|endoftext|>");
            by_text(Part::Bos, "<|endoftext|>");
        }
        "glm4_moe" | "glm4_moe_lite" | "glm_moe_dsa" => {
            by_text(Part::Bos, "[gMASK]");
            by_text(Part::Eot, "<|user|>");
            by_text(Part::Unk, "<|endoftext|>");
            by_text(Part::Eom, "<|observation|>");
        }
        // The chat models end a turn with a token that their files do not name as EOS.
        "internlm2" | "internlm3" => {
            let chat_end = vocabulary
                .find("<|im_end|>")
                .filter(|&id| vocabulary.get(id).is_some_and(|token| token.kind == TokenType::Control));
            if let Some(id) = chat_end {
                special.ids.set(Part::Eos, id);
            }
        }
        "llama" => {
            // Code Llama's end of infilling, which llama.cpp does not know by its text.
            if vocabulary.rows() == 32_016 && vocabulary.get(32_010).is_some_and(|token| token.text == "▁<EOT>") {
                special.ids.set_default(Part::Eot, 32_010);
            }
            // Granite's code models have the flag set in their files but were trained without a BOS.
            if vocabulary.rows() == 49_152 {
                special.adds.set(Part::Bos, false);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::vocabulary::Token, *};

    fn vocabulary(texts: &[&str]) -> Vocabulary {
        let mut vocabulary = Vocabulary::new(texts.len() as u64).unwrap();
        for (id, text) in (0..).zip(texts) {
            vocabulary.set(id, Token { text: (*text).to_owned(), score: 0.0, kind: TokenType::Control });
        }
        vocabulary
    }

    #[test]
    fn glm_turns_end_where_the_user_begins() {
        let vocabulary = vocabulary(&["<|endoftext|>", "[gMASK]", "<|user|>", "<|observation|>"]);
        let mut special = Special::default();
        adjust(&json!({"model_type": "glm4_moe"}), &vocabulary, &mut special);
        assert_eq!(special.ids.get(Part::Bos), Some(&1));
        assert_eq!(special.ids.get(Part::Eot), Some(&2));
        assert_eq!(special.ids.get(Part::Eom), Some(&3));
        let mut special = Special::default();
        special.ids.set(Part::Bos, 3);
        adjust(&json!({"model_type": "glm4"}), &vocabulary, &mut special);
        assert_eq!(special.ids.get(Part::Bos), Some(&3));
        assert_eq!(special.ids.get(Part::Eos), Some(&0));
    }

    #[test]
    fn internlm_chat_models_end_a_turn() {
        let mut special = Special::default();
        special.ids.set(Part::Eos, 0);
        adjust(&json!({"model_type": "internlm3"}), &vocabulary(&["</s>", "<|im_end|>"]), &mut special);
        assert_eq!(special.ids.get(Part::Eos), Some(&1));
        adjust(&json!({"model_type": "qwen3"}), &vocabulary(&["</s>"]), &mut special);
        assert_eq!(special.ids.get(Part::Eos), Some(&1));
    }
}
