//! Byte-level BPE from `tokenizer.json`: GPT-2's scheme, which llama.cpp calls `gpt2`.
//!
//! It knows the model's vocabulary and merges and how llama.cpp reads them; how text is split before
//! is the business of `pre`.

use std::collections::{HashMap, HashSet};

use qhost_plugin_api::sdk::{Failure, Result};

use super::{
    hugging_face::{self, AddedToken, Bpe, Merge, TokenizerJson},
    vocabulary::{Token, TokenType, Vocabulary, added_type},
};

/// A space in the alphabet of byte-level BPE: U+0020 moved up by 256.
const SPACE: char = 'Ġ';

/// The added tokens under the ids that the tokenizers library gives them, which are those that the
/// model was trained with: a text that the model's vocabulary has too keeps the id from there, the others
/// are numbered from the end of the vocabulary, whatever number the file says.
pub(super) fn added_tokens(json: &TokenizerJson<Bpe>, warnings: &mut Vec<String>) -> Vec<AddedToken> {
    let ids: HashMap<&str, u32> = json.model.vocab.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut occupied: HashSet<u32> = ids.values().copied().collect();
    let mut next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut tokens = Vec::new();
    let mut renumbered = None;
    for token in json.added_tokens.iter().filter(|token| !token.content.is_empty()) {
        let mut token = token.clone();
        let known = ids.get(token.content.as_str()).or_else(|| seen.get(&token.content));
        if let Some(&id) = known {
            token.id = id;
        } else {
            // A vocabulary with holes in its ids would have the library's number taken already.
            if token.id != next && !occupied.contains(&next) {
                renumbered.get_or_insert((token.content.clone(), token.id, next));
                token.id = next;
            }
            next = next.saturating_add(1);
            occupied.insert(token.id);
        }
        seen.insert(token.content.clone(), token.id);
        tokens.push(token);
    }
    if let Some((text, written, counted)) = renumbered {
        warnings.push(format!(
            "the added tokens are not numbered without a gap: {text:?} has the id {written} in the file, but \
             transformers gives it {counted}, as is done here"
        ));
    }
    tokens
}

/// The vocabulary of a byte-level BPE model.
///
/// # Errors
/// Fails with kind `CORRUPT` when a token has no row in the model.
pub(super) fn vocabulary(json: &TokenizerJson<Bpe>, added: &[AddedToken], rows: u64) -> Result<Vocabulary> {
    let mut vocabulary = Vocabulary::new(rows)?;
    let mut place = |text: &str, id: u32, kind: TokenType| {
        let token = Token { text: text.to_owned(), score: 0.0, kind };
        if vocabulary.set(id, token) { Ok(()) } else { Err(no_row(text, id, rows)) }
    };
    for (text, id) in &json.model.vocab {
        place(text, *id, TokenType::Normal)?;
    }
    // Byte-level texts are matched and printed as they stand: a `▁` in one is that character, unlike
    // in a SentencePiece vocabulary. (The reference converter rewrites some; llama.cpp then misses them.)
    for token in added {
        place(&token.content, token.id, added_type(&token.content, token.special))?;
    }
    Ok(vocabulary)
}

pub(super) fn no_row(text: &str, id: u32, rows: u64) -> Failure {
    Failure::corrupt(format!("the token {text:?} has the id {id}, the model has {rows} rows in its embedding"))
        .about("tokenizer.json")
        .hint("the tokenizer belongs to another model, or tokens were added without resizing the embedding")
}

/// The merges as llama.cpp reads them: two texts with a space between.
///
/// # Errors
/// Fails with kind `CORRUPT` when a merge names a token that does not exist: no library loads that.
pub(super) fn merges(model: &Bpe) -> Result<Vec<String>> {
    let known: HashSet<&str> = model.vocab.iter().map(|(text, _)| text.as_str()).collect();
    let mut joined = String::new();
    model
        .merges
        .iter()
        .map(|Merge { left, right }| {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            if let Some(missing) = [left, right, &joined].into_iter().find(|text| !known.contains(text.as_str())) {
                return Err(Failure::corrupt(format!(
                    "the merge of {left:?} and {right:?} needs the token {missing:?}, which the vocabulary lacks"
                ))
                .about("tokenizer.json"));
            }
            Ok(format!("{} {}", spell_spaces(left), spell_spaces(right)))
        })
        .collect()
}

/// A space inside a token would end it for llama.cpp, so it is spelled as byte-level BPE spells it.
fn spell_spaces(text: &str) -> String {
    text.chars().map(|c| if c == ' ' { SPACE } else { c }).collect()
}

/// Refuses what llama.cpp's BPE cannot do.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for prefixes and suffixes inside or at the end of words.
pub(super) fn check(model: &Bpe) -> Result<()> {
    for (what, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if !affix.is_empty() {
            return Err(Failure::unsupported(format!("the BPE model has the {what} {affix:?}, which llama.cpp lacks"))
                .about("tokenizer.json"));
        }
    }
    Ok(())
}

/// Tells what llama.cpp will do otherwise than the tokenizer.
pub(super) fn warn(json: &TokenizerJson<Bpe>, warnings: &mut Vec<String>) {
    let normalizer: Vec<&str> =
        hugging_face::steps(&json.normalizer, "normalizers").into_iter().map(hugging_face::kind).collect();
    if !normalizer.is_empty() {
        warnings.push(format!(
            "the tokenizer normalizes text ({}), llama.cpp does not: text that this changes gets other tokens",
            normalizer.join(", ")
        ));
    }
    let prefixes = hugging_face::steps(&json.pre_tokenizer, "pretokenizers").into_iter().any(|step| {
        hugging_face::kind(step) == "ByteLevel"
            && step.get("add_prefix_space").and_then(serde_json::Value::as_bool).unwrap_or(true)
    });
    if prefixes {
        warnings.push(
            "the tokenizer puts a space before a text (add_prefix_space), llama.cpp does not: \
             the first token of a text differs"
                .to_owned(),
        );
    }
    if let Some(unknown) = &json.model.unk_token {
        let known: HashSet<&str> = json.model.vocab.iter().map(|(text, _)| text.as_str()).collect();
        let missing = alphabet().filter(|c| !known.contains(c.encode_utf8(&mut [0; 4]) as &str)).count();
        if missing > 0 {
            warnings.push(format!(
                "the vocabulary lacks {missing} of the 256 bytes; the tokenizer writes {unknown:?} for them, \
                 llama.cpp drops them"
            ));
        }
    }
}

/// The 256 characters that stand for bytes.
fn alphabet() -> impl Iterator<Item = char> {
    let own = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    // The 68 others follow each other from U+0100.
    own.chain('\u{100}'..='\u{143}')
}

/// How many tokens merging their own characters does not lead to: where there are any, it matters
/// whether a piece that is a token is taken whole (`ignore_merges`).
pub(super) fn unreachable(model: &Bpe, added: &[AddedToken]) -> usize {
    let ranks: HashMap<(&str, &str), usize> = model
        .merges
        .iter()
        .enumerate()
        .rev()
        .map(|(rank, Merge { left, right })| ((left.as_str(), right.as_str()), rank))
        .collect();
    // Added tokens are found in the text before anything is merged.
    let added: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let texts = model.vocab.iter().map(|(text, _)| text.as_str()).filter(|text| !added.contains(text));
    texts.filter(|text| !merges_to_one(text, &ranks)).count()
}

fn merges_to_one(text: &str, ranks: &HashMap<(&str, &str), usize>) -> bool {
    // Ends of the pieces so far; merging removes one.
    let mut ends: Vec<usize> = text.char_indices().map(|(start, c)| start + c.len_utf8()).collect();
    while ends.len() > 1 {
        let start = |index: usize| if index == 0 { 0 } else { ends[index - 1] };
        let best = (0..ends.len() - 1)
            .filter_map(|index| {
                let pair = (&text[start(index)..ends[index]], &text[ends[index]..ends[index + 1]]);
                ranks.get(&pair).map(|rank| (rank, index))
            })
            .min();
        match best {
            Some((_, index)) => ends.remove(index),
            None => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::{Value, json};

    use super::*;

    fn parse(model: &Value, added: &Value) -> TokenizerJson<Bpe> {
        let document = json!({"added_tokens": added, "model": model, "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}});
        serde_json::from_str(&document.to_string()).unwrap()
    }

    fn model() -> Value {
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<|x|>": 3}, "merges": ["a b"]})
    }

    fn added(entries: &[(u32, &str, bool)]) -> Value {
        entries.iter().map(|(id, text, special)| json!({"id": id, "content": text, "special": special})).collect()
    }

    #[test]
    fn added_tokens_keep_the_ids_of_the_vocabulary() {
        let json = parse(&model(), &added(&[(9, "<|x|>", false), (4, "<think>", false), (5, "▁é", false)]));
        let mut warnings = Vec::new();
        let tokens = added_tokens(&json, &mut warnings);
        assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(warnings.is_empty());
        let lists = vocabulary(&json, &tokens, 7).unwrap().finish();
        assert_eq!(lists.texts, ["a", "b", "ab", "<|x|>", "<think>", "▁é", "[PAD6]"]);
        assert_eq!(lists.types, [1, 1, 1, 3, 4, 4, 5]);
        assert_eq!(vocabulary(&json, &tokens, 5).unwrap_err().kind, FailureKind::CORRUPT);
    }

    #[test]
    fn gaps_between_added_tokens_are_closed() {
        let mut json = parse(&model(), &added(&[(4, "<think>", false), (7, "</think>", false)]));
        let mut warnings = Vec::new();
        assert_eq!(added_tokens(&json, &mut warnings)[1].id, 5);
        assert_eq!(warnings.len(), 1);
        // Five tokens, the last with id 5: the numbers of the file are the only ones that make sense.
        json.model.vocab.push(("c".to_owned(), 5));
        json.added_tokens[0].id = 6;
        assert_eq!(added_tokens(&json, &mut warnings)[0].id, 6);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn both_spellings_of_merges_are_written_alike() {
        let vocab = json!({"a": 0, "b": 1, "ab": 2, " ": 3, "b ": 4, "ab ": 5});
        let json = parse(&json!({"type": "BPE", "vocab": vocab, "merges": ["a b"]}), &json!([]));
        assert_eq!(merges(&json.model).unwrap(), ["a b"]);
        let pairs = json!([["a", "b"], ["b", " "], ["a", "b "]]);
        let json = parse(&json!({"type": "BPE", "vocab": vocab, "merges": pairs}), &json!([]));
        assert_eq!(merges(&json.model).unwrap(), ["a b", "b Ġ", "a bĠ"]);
        let json = parse(&json!({"type": "BPE", "vocab": vocab, "merges": [["b", "a"]]}), &json!([]));
        assert_eq!(merges(&json.model).unwrap_err().kind, FailureKind::CORRUPT);
    }

    #[test]
    fn tokens_that_merging_does_not_reach_are_counted() {
        let vocab = json!({"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "cc": 6});
        let model = |merges: Value| parse(&json!({"type": "BPE", "vocab": vocab, "merges": merges}), &json!([])).model;
        // "abc" from "a" and "bc": but "ab" is merged first.
        assert_eq!(unreachable(&model(json!(["a b", "b c", "a bc"])), &[]), 2);
        assert_eq!(unreachable(&model(json!(["a b", "b c", "ab c", "c c"])), &[]), 0);
    }

    #[test]
    fn what_llama_cpp_does_otherwise_is_told() {
        let mut json = parse(&model(), &json!([]));
        let mut warnings = Vec::new();
        warn(&json, &mut warnings);
        assert!(warnings.is_empty(), "{warnings:?}");
        json.normalizer = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]});
        json.pre_tokenizer = json!({"type": "ByteLevel", "add_prefix_space": true});
        json.model.unk_token = Some("<unk>".to_owned());
        warn(&json, &mut warnings);
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("NFC"));
        assert!(warnings[2].contains("254 of the 256"));
    }

    #[test]
    fn the_alphabet_has_a_character_for_every_byte() {
        let all: HashSet<char> = alphabet().collect();
        assert_eq!(all.len(), 256);
        assert!(all.contains(&SPACE) && all.contains(&'Ċ') && all.contains(&'Ń'));
    }

    #[test]
    fn affixes_are_refused() {
        let mut json = parse(&model(), &json!([]));
        assert!(check(&json.model).is_ok());
        json.model.end_of_word_suffix = "</w>".to_owned();
        assert_eq!(check(&json.model).unwrap_err().kind, FailureKind::UNSUPPORTED);
    }
}
