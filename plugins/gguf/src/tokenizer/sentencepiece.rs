//! `tokenizer.model`: a SentencePiece model, which llama.cpp calls `llama`.
//!
//! It knows the few fields of `sentencepiece_model.proto` that a BPE vocabulary needs, and how the
//! reference converter lays added tokens over the pieces. The numbers of fields and types are those of
//! that file (sentencepiece, Apache 2.0).

use std::collections::BTreeMap;

use prost::Message;
use qhost_plugin_api::sdk::{Failure, Result};

use super::{
    hugging_face::AddedToken,
    metaspace::added_token,
    vocabulary::{ADDED_SCORE, Token, TokenType, Vocabulary, added_type},
};

/// The whole model.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// What the model was trained as.
#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

/// What is done to text first.
#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// How merging works; the default of the format is the first.
const MODEL_TYPES: [&str; 4] = ["Unigram", "BPE", "Word", "Char"];
const BPE: usize = 1;

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the bytes are not a SentencePiece model.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let broken = |detail: &str| {
            Failure::corrupt(format!("not a SentencePiece model: {detail}"))
                .about("tokenizer.model")
                .hint("fetch the file again; a text of a few lines in its place is a pointer of Git LFS")
        };
        let model = Self::decode(bytes).map_err(|error| broken(&error.to_string()))?;
        if model.pieces.is_empty() {
            return Err(broken("it has no pieces"));
        }
        if let Some(index) = model.pieces.iter().position(|piece| !piece.score().is_finite()) {
            return Err(broken(&format!("the score of piece {index} is not a number")));
        }
        Ok(model)
    }

    /// Whether it merges as llama.cpp's `llama` tokenizer does.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for the other kinds of SentencePiece model.
    pub(super) fn check(&self) -> Result<()> {
        let kind = self.trainer.as_ref().map_or(1, |trainer| trainer.model_type.unwrap_or(1));
        // The numbers begin with 1.
        match usize::try_from(kind).ok().and_then(|kind| kind.checked_sub(1)) {
            Some(BPE) => Ok(()),
            kind => {
                let name = kind.and_then(|kind| MODEL_TYPES.get(kind)).copied().unwrap_or("unknown");
                Err(Failure::unsupported(format!("a SentencePiece model of the type {name}; only BPE can be written"))
                    .about("tokenizer.model")
                    .hint("llama.cpp would load it as BPE and split text otherwise than the model was trained with"))
            }
        }
    }

    /// The pieces with added tokens laid over them; later ones win.
    ///
    /// A token beyond the model's rows is left out and told, as in the reference converter: such ones are
    /// shipped with well-known models (an image token beside a text-only one).
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for more rows than llama.cpp can number.
    pub(super) fn vocabulary(&self, added: &[AddedToken], rows: u64, warnings: &mut Vec<String>) -> Result<Vocabulary> {
        let mut vocabulary = Vocabulary::new(rows)?;
        let mut beyond = BTreeMap::new();
        for (id, piece) in (0..).zip(&self.pieces) {
            if !vocabulary.set(id, piece.token()) {
                beyond.insert(id, piece.text());
            }
        }
        for token in added {
            if vocabulary
                .get(token.id)
                .is_some_and(|piece| piece.kind == TokenType::Unknown && piece.text == token.content)
            {
                continue;
            }
            if !vocabulary.set(token.id, added_token(token, ADDED_SCORE)) {
                beyond.insert(token.id, &token.content);
            }
        }
        if let Some((id, text)) = beyond.first_key_value() {
            warnings.push(format!(
                "{} tokens have no row in the model and are left out, the first is {text:?} with id {id}",
                beyond.len()
            ));
        }
        Ok(vocabulary)
    }

    /// Whether a space is put before a text.
    pub(super) fn prefixes_space(&self) -> bool {
        self.normalizer.as_ref().is_none_or(|normalizer| normalizer.add_dummy_prefix.unwrap_or(true))
    }

    /// Tells what llama.cpp will do otherwise than the tokenizer.
    pub(super) fn warn(&self, warnings: &mut Vec<String>) {
        if let Some(normalizer) = &self.normalizer {
            if !normalizer.precompiled_charsmap().is_empty() {
                warnings.push(format!(
                    "the tokenizer normalizes text ({}), llama.cpp does not: text that this changes gets other tokens",
                    normalizer.name()
                ));
            }
            if normalizer.remove_extra_whitespaces.unwrap_or(true) {
                warnings.push(
                    "the tokenizer drops repeated spaces and those at the ends of a text, llama.cpp does not"
                        .to_owned(),
                );
            }
            if !normalizer.escape_whitespaces.unwrap_or(true) {
                warnings.push("the tokenizer leaves spaces as they are, llama.cpp turns them into ▁".to_owned());
            }
        }
        let user_defined = self.pieces.iter().any(|piece| piece.token().kind == TokenType::UserDefined);
        if self.prefixes_space() && user_defined {
            warnings.push(
                "llama.cpp puts a space before text that follows a user-defined token, SentencePiece does not"
                    .to_owned(),
            );
        }
        let trainer = self.trainer.as_ref();
        if trainer.is_some_and(Trainer::treat_whitespace_as_suffix) {
            warnings.push("the tokenizer puts spaces at the ends of words, llama.cpp at their starts".to_owned());
        }
        if !self.pieces.iter().any(|piece| piece.token_type() == TokenType::Byte) {
            warnings.push(
                "the vocabulary has no bytes to fall back to: llama.cpp fails on text with characters that it lacks"
                    .to_owned(),
            );
        }
    }
}

impl Piece {
    fn token_type(&self) -> TokenType {
        match self.kind() {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }

    /// The piece as llama.cpp is to see it.
    ///
    /// The reference converter writes user-defined pieces as normal ones, because the Python binding does
    /// not tell them apart; SentencePiece matches them before anything else, which is what llama.cpp does
    /// with the type of that name.
    fn token(&self) -> Token {
        let (text, score) = (self.text(), self.score());
        match self.token_type() {
            TokenType::UserDefined => match added_type(text, false) {
                TokenType::UserDefined => Token { text: text.replace('▁', " "), score, kind: TokenType::UserDefined },
                kind => Token { text: text.to_owned(), score, kind },
            },
            kind => Token { text: text.to_owned(), score, kind },
        }
    }
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;

    use super::*;

    fn piece(text: &str, score: f32, kind: i32) -> Piece {
        Piece { text: Some(text.to_owned()), score: Some(score), kind: Some(kind) }
    }

    fn model() -> Model {
        Model {
            pieces: vec![
                piece("<unk>", 0.0, 2),
                piece("<s>", 0.0, 3),
                piece("<0x00>", 0.0, 6),
                piece("▁▁", 0.0, 4),
                piece("<unused0>", 0.0, 4),
                Piece { text: Some("▁a".to_owned()), score: Some(-1.0), kind: None },
                piece("gone", 0.0, 5),
            ],
            trainer: Some(Trainer { model_type: Some(2), ..Trainer::default() }),
            normalizer: Some(Normalizer {
                add_dummy_prefix: Some(false),
                remove_extra_whitespaces: Some(false),
                ..Normalizer::default()
            }),
        }
    }

    fn added(id: u32, content: &str, special: bool) -> AddedToken {
        serde_json::from_value(serde_json::json!({"id": id, "content": content, "special": special})).unwrap()
    }

    #[test]
    fn pieces_and_added_tokens_make_the_vocabulary() {
        let model = Model::read(&model().encode_to_vec()).unwrap();
        model.check().unwrap();
        let mut warnings = Vec::new();
        model.warn(&mut warnings);
        let tokens =
            [added(0, "<unk>", true), added(8, "<|user|>", false), added(6, "[▁]", false), added(9, "<image>", true)];
        let lists = model.vocabulary(&tokens, 9, &mut warnings).unwrap().finish();
        let texts = ["<unk>", "<s>", "<0x00>", "  ", "<unused0>", "▁a", "[ ]", "[PAD7]", "<|user|>"];
        assert_eq!(lists.texts, texts);
        assert_eq!(lists.types, [2, 3, 6, 4, 3, 1, 4, 5, 3]);
        assert_eq!(lists.scores, [0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1000.0, -10_000.0, -1000.0]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("<image>"));
    }

    #[test]
    fn what_llama_cpp_does_otherwise_is_told() {
        let mut model = model();
        model.pieces.remove(2);
        model.normalizer = Some(Normalizer {
            name: Some("nmt_nfkc".to_owned()),
            precompiled_charsmap: Some(vec![1]),
            escape_whitespaces: Some(false),
            ..Normalizer::default()
        });
        model.trainer = Some(Trainer { treat_whitespace_as_suffix: Some(true), ..Trainer::default() });
        let mut warnings = Vec::new();
        model.warn(&mut warnings);
        assert_eq!(warnings.len(), 6, "{warnings:?}");
        assert!(model.prefixes_space());
        // A model without a type is Unigram by the format's default.
        let failure = model.check().unwrap_err();
        assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
        assert!(failure.message.contains("Unigram"));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let good = model().encode_to_vec();
        for end in 0..good.len() {
            // A cut may fall between two pieces; what it must not do is panic.
            let _ = Model::read(&good[..end]);
        }
        let length_that_lies = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let not_utf8 = [0x0a, 0x03, 0x0a, 0x01, 0xff];
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        let infinite = Model { pieces: vec![piece("a", f32::INFINITY, 1)], ..Model::default() }.encode_to_vec();
        for bytes in [&length_that_lies[..], &not_utf8, pointer, &infinite, b""] {
            assert_eq!(Model::read(bytes).unwrap_err().kind, FailureKind::CORRUPT);
        }
    }
}
