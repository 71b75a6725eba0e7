//! Where a long text may be cut without a change of its tokens.
//!
//! A tokenizer takes more than a hundred times the memory of its text. A text is split by a pattern first, and each
//! part becomes tokens by itself; with the patterns below, a border between a letter of ASCII and the space or line end
//! behind it is always one between two parts: every alternative that takes a letter ends with the run of letters at the
//! latest, none looks back, and the only one that looks ahead (`\s+(?!\S)`) looks at the one character behind white
//! space, which in front of that border is the letter or comes before it. Composing characters (NFC) never reaches over
//! such a border. So a text may be cut there, unless a token that was added to the vocabulary has white space in it, or
//! takes the white space around it.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// The patterns of GPT-2, Llama 3 and Qwen 2, which most byte-level tokenizers have.
const PATTERNS: [&str; 3] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Whether texts may be cut between a letter and the white space behind it.
pub(super) fn is_safe(tokenizer: &Tokenizer) -> bool {
    let as_value = |part: Result<Value, serde_json::Error>| part.unwrap_or(Value::Null);
    let normalizer = as_value(serde_json::to_value(tokenizer.get_normalizer()));
    let splitter = as_value(serde_json::to_value(tokenizer.get_pre_tokenizer()));
    let whole_lines = normalizer.is_null() || normalizer["type"] == "NFC";
    let splits = match splitter["type"].as_str() {
        Some("ByteLevel") => is_byte_level(&splitter, true),
        Some("Sequence") => match splitter["pretokenizers"].as_array().map(Vec::as_slice) {
            Some([split, bytes]) => is_known(split) && is_byte_level(bytes, false),
            _ => false,
        },
        _ => false,
    };
    let plain = |token: &tokenizers::AddedToken| {
        !(token.lstrip || token.rstrip || token.single_word || token.content.contains(char::is_whitespace))
    };
    whole_lines && splits && tokenizer.get_added_tokens_decoder().values().all(plain)
}

fn is_byte_level(splitter: &Value, by_pattern: bool) -> bool {
    splitter["type"] == "ByteLevel"
        && splitter["add_prefix_space"] == false
        && splitter["use_regex"].as_bool().unwrap_or(true) == by_pattern
}

fn is_known(split: &Value) -> bool {
    let pattern = split["pattern"]["Regex"].as_str();
    split["type"] == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == json!(false)
        && pattern.is_some_and(|pattern| PATTERNS.contains(&pattern))
}

/// The parts of a text, each of at least `length` bytes where there is a place to cut.
pub(super) fn parts(text: &str, length: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while rest.len() > length {
        let bytes = rest.as_bytes();
        let is_border = |&at: &usize| matches!(bytes[at], b' ' | b'\n') && bytes[at - 1].is_ascii_alphabetic();
        let Some(at) = (length.max(1)..bytes.len()).find(is_border) else { break };
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}
