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
    if model_type == "llama" {
        // Code Llama's end of infilling, which llama.cpp does not know by its text.
        if vocabulary.rows() == 32_016 && vocabulary.get(32_010).is_some_and(|token| token.text == "▁<EOT>") {
            special.ids.set_default(Part::Eot, 32_010);
        }
        // Granite's code models have the flag set in their files but were trained without a BOS.
        if vocabulary.rows() == 49_152 {
            special.adds.set(Part::Bos, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::vocabulary::{Token, TokenType},
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
    fn granite_s_code_models_get_no_bos() {
        assert_eq!(adjusted(49_152, &[], "llama").adds.get(Part::Bos), Some(&false));
        assert_eq!(adjusted(49_153, &[], "llama").adds.get(Part::Bos), Some(&true));
        assert_eq!(adjusted(49_152, &[], "mistral").adds.get(Part::Bos), Some(&true));
    }
}
