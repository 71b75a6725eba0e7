//! A SentencePiece BPE model that was exported as `tokenizer.json`: spaces are `▁`, unknown characters
//! fall back to bytes, and llama.cpp calls it `llama`.
//!
//! llama.cpp merges the pair of pieces whose union has the best *score*, the tokenizers library the pair
//! with the best *rank*, so a score is made of the rank. (The reference converter writes the same score
//! for every token here, which makes llama.cpp merge from the left and is not the tokenizer that the
//! model was trained with.) It knows nothing of `tokenizer.model` files.

use std::collections::{HashMap, HashSet};

use qhost_plugin_api::sdk::Result;
use serde_json::Value;

use super::{
    bpe::no_row,
    hugging_face::{self, AddedToken, Bpe, Merge, TokenizerJson},
    vocabulary::{Token, TokenType, Vocabulary, added_type, is_byte},
};

const SPACE: &str = "▁";

/// How spaces are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spaces {
    /// Whether a space is put before a text.
    pub(super) prefix: bool,
    /// Whether that is left out where a space is already, and after special tokens.
    pub(super) sparing: bool,
    /// Whether no token may reach over a space into the next word.
    pub(super) split: bool,
}

/// How spaces are treated, if they become `▁` at all.
pub(super) fn spaces<M>(json: &TokenizerJson<M>) -> Option<Spaces> {
    let mut escaped = false;
    let mut spaces = Spaces { prefix: false, sparing: false, split: false };
    for step in hugging_face::steps(&json.normalizer, "normalizers") {
        match hugging_face::kind(step) {
            "Replace" if replaces_space(step) => escaped = true,
            "Prepend" if step.get("prepend").and_then(Value::as_str) == Some(SPACE) => spaces.prefix = true,
            _ => {}
        }
    }
    for step in hugging_face::steps(&json.pre_tokenizer, "pretokenizers") {
        if hugging_face::kind(step) == "Metaspace" && step.get("replacement").and_then(Value::as_str) == Some(SPACE) {
            escaped = true;
            let scheme = step.get("prepend_scheme").and_then(Value::as_str);
            // Files older than the scheme have a switch, whose default was on.
            let switch = || step.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
            spaces.prefix = spaces.prefix || scheme.map_or_else(switch, |scheme| scheme != "never");
            spaces.sparing = spaces.prefix;
            spaces.split = step.get("split").and_then(Value::as_bool).unwrap_or(true);
        }
    }
    escaped.then_some(spaces)
}

fn replaces_space(step: &Value) -> bool {
    let pattern = step.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str);
    pattern == Some(" ") && step.get("content").and_then(Value::as_str) == Some(SPACE)
}

/// The vocabulary, with scores made of the merges' ranks.
///
/// # Errors
/// Fails with kind `CORRUPT` when a token has no row in the model.
pub(super) fn vocabulary(json: &TokenizerJson<Bpe>, added: &[AddedToken], rows: u64) -> Result<Vocabulary> {
    let mut vocabulary = Vocabulary::new(rows)?;
    let model = &json.model;
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(model.merges.len());
    for (rank, Merge { left, right }) in model.merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    // What no merge makes must lose against everything that one makes.
    let last = model.merges.len();
    // Ranks are far below 2^24, up to which f32 tells neighbours apart.
    #[expect(clippy::cast_precision_loss, reason = "exact for every real number of merges")]
    let score = |text: &str| -(ranks.get(text).copied().unwrap_or(last) as f32);
    let mut place = |id: u32, token: Token| {
        let text = token.text.clone();
        if vocabulary.set(id, token) { Ok(()) } else { Err(no_row(&text, id, rows)) }
    };
    for (text, id) in &model.vocab {
        let kind = if is_byte(text) {
            TokenType::Byte
        } else if model.unk_token.as_deref() == Some(text) {
            TokenType::Unknown
        } else {
            TokenType::Normal
        };
        place(*id, Token { text: text.clone(), score: score(text), kind })?;
    }
    for token in added {
        if model.unk_token.as_deref() == Some(&token.content) || is_byte(&token.content) {
            continue;
        }
        place(token.id, added_token(token, score(&token.content)))?;
    }
    Ok(vocabulary)
}

/// An added token of a vocabulary with `▁` for spaces. llama.cpp looks for user-defined ones in text
/// whose spaces are still spaces.
pub(super) fn added_token(token: &AddedToken, score: f32) -> Token {
    let kind = added_type(&token.content, token.special);
    let text = match kind {
        TokenType::UserDefined => token.content.replace(SPACE, " "),
        _ => token.content.clone(),
    };
    Token { text, score, kind }
}

/// Tells what llama.cpp will do otherwise than the tokenizer.
pub(super) fn warn(json: &TokenizerJson<Bpe>, spaces: Spaces, warnings: &mut Vec<String>) {
    let other_steps = |node: &Value, list: &str, known: &dyn Fn(&Value) -> bool| {
        let steps = hugging_face::steps(node, list).into_iter().filter(|step| !known(step));
        steps.map(hugging_face::kind).collect::<Vec<_>>().join(", ")
    };
    let normalizer = other_steps(&json.normalizer, "normalizers", &|step| {
        replaces_space(step) || hugging_face::kind(step) == "Prepend"
    });
    if !normalizer.is_empty() {
        warnings.push(format!(
            "the tokenizer normalizes text ({normalizer}), llama.cpp does not: text that this changes gets other tokens"
        ));
    }
    let splits = other_steps(&json.pre_tokenizer, "pretokenizers", &|step| {
        hugging_face::kind(step) == "Metaspace" || splits_at_spaces(step)
    });
    if !splits.is_empty() {
        warnings.push(format!(
            "the tokenizer splits text ({splits}) in a way that llama.cpp lacks for this kind of vocabulary: \
             some text gets other tokens"
        ));
    }
    if spaces.sparing {
        warnings.push(
            "the tokenizer puts a space before a text that has none, llama.cpp before every text and after each \
             special token, as SentencePiece does"
                .to_owned(),
        );
    }
    let across = |(text, _): &&(String, u32)| text.char_indices().any(|(at, c)| at > 0 && c == '▁');
    if spaces.split && json.model.vocab.iter().any(|entry| across(&entry)) {
        warnings.push(
            "the tokenizer merges within words only, llama.cpp also across spaces, for which the vocabulary has tokens"
                .to_owned(),
        );
    }
    let unlisted = unlisted_merges(&json.model);
    if unlisted > 0 {
        warnings.push(format!(
            "llama.cpp can form {unlisted} tokens from parts that the tokenizer does not merge: now and then a word \
             gets other tokens"
        ));
    }
}

/// After `Replace` no space is left, so a split at spaces does nothing.
fn splits_at_spaces(step: &Value) -> bool {
    let pattern = step.get("pattern");
    let text = |key: &str| pattern.and_then(|pattern| pattern.get(key)).and_then(Value::as_str);
    hugging_face::kind(step) == "Split" && [text("String"), text("Regex")].contains(&Some(" "))
}

/// How many tokens could be made of two others although no merge says so. llama.cpp knows no list of
/// merges here: any two neighbours whose union is a token may merge. SentencePiece works alike, so the
/// merges of an exported model list every pair.
fn unlisted_merges(model: &Bpe) -> usize {
    let known: HashSet<&str> = model.vocab.iter().map(|(text, _)| text.as_str()).collect();
    let listed: HashSet<(&str, &str)> =
        model.merges.iter().map(|Merge { left, right }| (left.as_str(), right.as_str())).collect();
    let made: HashSet<String> = model.merges.iter().map(|Merge { left, right }| format!("{left}{right}")).collect();
    made.iter()
        .filter(|text| {
            text.char_indices().skip(1).any(|(at, _)| {
                let pair = text.split_at(at);
                known.contains(pair.0) && known.contains(pair.1) && !listed.contains(&pair)
            })
        })
        .count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(document: &Value) -> TokenizerJson<Bpe> {
        serde_json::from_str(&document.to_string()).unwrap()
    }

    fn llama() -> Value {
        json!({
            "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
                             {"id": 8, "content": "▁▁", "special": false}],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null,
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
                "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "▁": 3, "a": 4, "b": 5, "ab": 6, "▁ab": 7, "▁a": 9},
                "merges": ["a b", "▁ ab", "▁ a", "▁a b"]},
        })
    }

    #[test]
    fn scores_follow_the_ranks_of_the_merges() {
        let json = parse(&llama());
        let vocabulary = vocabulary(&json, &json.added_tokens, 11).unwrap();
        let lists = vocabulary.finish();
        assert_eq!(lists.texts, ["<unk>", "<s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab", "  ", "▁a", "[PAD10]"]);
        assert_eq!(lists.types, [2, 3, 6, 1, 1, 1, 1, 1, 4, 1, 5]);
        // In the order of the merges: "ab", "▁ab", "▁a"; then "▁", which no merge makes.
        assert!([6, 7, 9, 3].is_sorted_by(|&one: &usize, &other| lists.scores[one] > lists.scores[other]));
    }

    #[test]
    fn the_ways_to_write_spaces_are_told_apart() {
        let with = |normalizer: Value, pre_tokenizer: Value| {
            spaces(&parse(&json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
                "model": {"vocab": {}, "merges": []}})))
        };
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let metaspace =
            |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let is = |prefix, sparing, split| Some(Spaces { prefix, sparing, split });
        assert_eq!(spaces(&parse(&llama())), is(true, false, false));
        assert_eq!(with(replace.clone(), Value::Null), is(false, false, false));
        assert_eq!(with(Value::Null, metaspace("first")), is(true, true, false));
        assert_eq!(with(Value::Null, metaspace("always")), is(true, true, false));
        assert_eq!(with(Value::Null, metaspace("never")), is(false, false, false));
        let old = json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true});
        assert_eq!(with(Value::Null, old), is(true, true, true));
        assert_eq!(with(Value::Null, json!({"type": "ByteLevel"})), None);
    }

    #[test]
    fn what_llama_cpp_does_otherwise_is_told() {
        let warned = |document: &Value| {
            let json = parse(document);
            let mut warnings = Vec::new();
            warn(&json, spaces(&json).unwrap(), &mut warnings);
            warnings
        };
        assert!(warned(&llama()).is_empty());
        let mut document = llama();
        document["model"]["merges"] = json!(["a b", "▁ ab", "▁ a"]);
        assert!(warned(&document)[0].contains("1 tokens"));
        let mut document = llama();
        document["normalizer"]["normalizers"][0] = json!({"type": "NFKC"});
        document["pre_tokenizer"] =
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"});
        assert_eq!(warned(&document).len(), 1);
        document["pre_tokenizer"] = json!({"type": "Digits", "individual_digits": true});
        assert_eq!(warned(&document).len(), 2);
    }
}
