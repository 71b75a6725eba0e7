//! The list of tokens as GGUF stores it: a text, a score and a type for every row of the embedding.
//!
//! It knows what llama.cpp demands of the list (no holes, no text twice) and nothing of where the
//! tokens come from.

use std::collections::HashSet;

use qhost_plugin_api::sdk::{Failure, Result};

/// The score of rows that no token uses, as in the reference converter.
pub(super) const PADDING_SCORE: f32 = -10_000.0;
/// The score of added tokens in a SentencePiece vocabulary, as in the reference converter.
pub(super) const ADDED_SCORE: f32 = -1_000.0;

/// A bound on what a damaged or hostile configuration can make us allocate.
///
/// A checkpoint may be sparse, so a file of a few kilobytes can announce any number of rows, and each
/// takes about a hundred bytes here. The largest vocabularies in use have 262 144 rows (Gemma 3), an
/// eighth of this.
const MOST_ROWS: usize = 1 << 21;

/// What a token is; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown = 2,
    /// Steers the model; llama.cpp finds it in text only when it is asked to parse special tokens.
    Control = 3,
    /// Found in text before anything else.
    UserDefined = 4,
    Unused = 5,
    /// One byte, spelled `<0xXX>`.
    Byte = 6,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: TokenType,
}

/// Tokens by id, with room for every row of the embedding.
#[derive(Debug)]
pub(super) struct Vocabulary {
    tokens: Vec<Option<Token>>,
}

impl Vocabulary {
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for more rows than any vocabulary has.
    pub(super) fn new(rows: u64) -> Result<Self> {
        let count = usize::try_from(rows).ok().filter(|&count| count <= MOST_ROWS).ok_or_else(|| {
            Failure::unsupported(format!("a vocabulary of {rows} tokens is more than any tokenizer has"))
        })?;
        Ok(Self { tokens: vec![None; count] })
    }

    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)?.as_ref()
    }

    /// Sets a token, or tells that the embedding has no such row.
    pub(super) fn set(&mut self, id: u32, token: Token) -> bool {
        match self.tokens.get_mut(id as usize) {
            Some(slot) => {
                *slot = Some(token);
                true
            }
            None => false,
        }
    }

    /// The id of the first token with a text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        let position = self.tokens.iter().position(|token| token.as_ref().is_some_and(|token| token.text == text))?;
        u32::try_from(position).ok()
    }

    /// llama.cpp aborts the whole process when two tokens have the same text. Of such tokens an added
    /// one is the one that text is encoded to, else the first; the other rows lose theirs.
    pub(super) fn release_repeated(&mut self, warnings: &mut Vec<String>) {
        let mut seen = HashSet::new();
        let mut released = Vec::new();
        let added = |token: &Token| matches!(token.kind, TokenType::Control | TokenType::UserDefined);
        for pass in [true, false] {
            for (id, slot) in self.tokens.iter().enumerate() {
                let Some(token) = slot.as_ref().filter(|token| added(token) == pass) else { continue };
                if !seen.insert(visible(&token.text, id)) {
                    released.push(id);
                }
            }
        }
        if let Some(&id) = released.first() {
            let text = self.tokens[id].as_ref().map_or("", |token| &token.text);
            warnings.push(format!(
                "{} tokens have the text of another token, the first is {text:?} with id {id}; \
                 they are written as padding, because llama.cpp accepts a text only once",
                released.len(),
            ));
        }
        for id in released {
            self.tokens[id] = None;
        }
    }

    /// The lists, with padding in the rows without a token.
    pub(super) fn finish(self) -> Lists {
        let texts = self.tokens.iter().enumerate();
        let taken: HashSet<_> = texts.filter_map(|(id, token)| Some(visible(&token.as_ref()?.text, id))).collect();
        let mut lists = Lists::default();
        for (id, token) in self.tokens.into_iter().enumerate() {
            // Two placeholders have different numbers, so only the tokens can be in their way.
            let token = token.unwrap_or_else(|| Token {
                text: placeholder(id, &taken),
                score: PADDING_SCORE,
                kind: TokenType::Unused,
            });
            lists.texts.push(token.text);
            lists.scores.push(token.score);
            lists.types.push(token.kind as i32);
        }
        lists
    }
}

/// The text by which llama.cpp tells tokens apart: it reads up to a NUL and renames what is empty.
fn visible(text: &str, id: usize) -> String {
    match text.split('\0').next() {
        None | Some("") => format!("[EMPTY_{id}]"),
        Some(start) => start.to_owned(),
    }
}

/// The reference converter's name for a row without a token, made unique.
fn placeholder(id: usize, taken: &HashSet<String>) -> String {
    let mut text = format!("[PAD{id}]");
    while taken.contains(&text) {
        text.push('_');
    }
    text
}

/// The three parallel lists that GGUF stores.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) texts: Vec<String>,
    pub(super) scores: Vec<f32>,
    pub(super) types: Vec<i32>,
}

/// The type of an added token: its file's `special`, and the texts that the reference converter knows
/// to steer models although their files do not say so (Command-R, DeepSeek-Coder, Gemma, …).
pub(super) fn added_type(text: &str, special: bool) -> TokenType {
    let enclosed = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    let looks_special = matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || enclosed("<|", "|>")
        || enclosed("<｜", "｜>")
        || enclosed("<unused", ">");
    if special || looks_special { TokenType::Control } else { TokenType::UserDefined }
}

/// Whether a text is the spelling of a byte, `<0xXX>`.
pub(super) fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, kind: TokenType) -> Token {
        Token { text: text.to_owned(), score: 0.0, kind }
    }

    #[test]
    fn rows_without_a_token_become_padding() {
        let mut vocabulary = Vocabulary::new(5).unwrap();
        assert!(vocabulary.set(0, token("a", TokenType::Normal)));
        assert!(vocabulary.set(2, token("[PAD1]", TokenType::Normal)));
        assert!(vocabulary.set(3, token("[PAD4]\0x", TokenType::Normal)));
        assert!(!vocabulary.set(5, token("z", TokenType::Normal)));
        let mut warnings = Vec::new();
        vocabulary.release_repeated(&mut warnings);
        let lists = vocabulary.finish();
        assert_eq!(lists.texts, ["a", "[PAD1]_", "[PAD1]", "[PAD4]\0x", "[PAD4]_"]);
        assert_eq!(lists.types, [1, 5, 1, 1, 5]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_text_stays_once_and_an_added_token_keeps_it() {
        let mut vocabulary = Vocabulary::new(6).unwrap();
        for (id, text, kind) in [
            (0, "x", TokenType::Normal),
            (1, "<s>", TokenType::Normal),
            (2, "x", TokenType::Normal),
            (3, "<s>", TokenType::Control),
            (4, "a\0b", TokenType::Normal),
            (5, "a\0c", TokenType::Normal),
        ] {
            vocabulary.set(id, token(text, kind));
        }
        let mut warnings = Vec::new();
        vocabulary.release_repeated(&mut warnings);
        assert!(vocabulary.get(2).is_none());
        let lists = vocabulary.finish();
        assert_eq!(lists.texts, ["x", "[PAD1]", "[PAD2]", "<s>", "a\0b", "[PAD5]"]);
        assert_eq!(lists.types, [1, 5, 5, 3, 1, 5]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn texts_that_steer_models_are_control_tokens() {
        for text in ["<|im_end|>", "<｜fim▁hole｜>", "<unused17>", "<pad>", "[@BOS@]"] {
            assert_eq!(added_type(text, false), TokenType::Control, "{text}");
        }
        for text in ["<think>", "  ", "<|", "pad"] {
            assert_eq!(added_type(text, false), TokenType::UserDefined, "{text}");
        }
        assert_eq!(added_type("</s>", true), TokenType::Control);
    }

    #[test]
    fn bytes_are_spelled_with_two_hexadecimal_digits() {
        assert!(is_byte("<0x0A>") && is_byte("<0xff>"));
        assert!(!is_byte("<0x0A") && !is_byte("<0x0>") && !is_byte("<0x0G>") && !is_byte("<0x00A>"));
    }

    #[test]
    fn more_rows_than_any_vocabulary_has_are_refused() {
        assert!(Vocabulary::new(1 << 21).is_ok());
        assert!(Vocabulary::new((1 << 21) + 1).is_err());
        assert!(Vocabulary::new(u64::MAX).is_err());
    }
}
