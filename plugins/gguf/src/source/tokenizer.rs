//! `tokenizer.json` and `tokenizer_config.json` out of the `tokenizer.*` keys of a GGUF file.
//!
//! It knows how the tokenizers library describes byte-level BPE, and SentencePiece models as BPE with a fallback to
//! bytes; how llama.cpp splits text is `tokenizer::pre`'s table.

use std::collections::{BTreeMap, HashMap};

use qhost_plugin_api::sdk::{Failure, Result};
use serde_json::{Map, Value as Json, json};

use crate::{
    metadata::{Array, Metadata, Value},
    tokenizer::{ends::KNOWN_ENDS, splits_whole, splitting},
};

const KEYS: &str = "tokenizer.ggml";
/// The numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
/// A space in a SentencePiece vocabulary.
const SPACE: &str = "▁";
/// A longer token is split at fewer places than it has: no published vocabulary has one, and the number of ways to
/// split tokens is that of their lengths.
const LONGEST: usize = 512;

/// A tokenizer.
pub(super) struct Tokenizer {
    /// `tokenizer.json`.
    pub(super) json: Json,
    /// `tokenizer_config.json`.
    pub(super) config: Json,
    /// Every token that ends a text: those that the file names, and those that llama.cpp knows by their texts.
    pub(super) ends: Vec<usize>,
}

/// The ids of special tokens, by the keys of `config.json`. A file that names none has none: classes would assume
/// numbers of their own.
pub(super) fn ids(metadata: &Metadata) -> Map<String, Json> {
    let mut ids = Map::new();
    for (part, key) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id")] {
        ids.insert(format!("{part}_token_id"), id_of(metadata, key).map_or(Json::Null, Json::from));
    }
    ids
}

/// The tokenizer of a file; none, and a warning, where it cannot be rebuilt.
///
/// # Errors
/// Fails with kind `CORRUPT` when its lists do not fit each other.
pub(super) fn of(metadata: &Metadata, warnings: &mut Vec<String>) -> Result<Option<Tokenizer>> {
    let text = |key: &str| metadata.get(&format!("{KEYS}.{key}")).and_then(Value::as_str);
    let kind = text("model").unwrap_or("none");
    let name = text("pre").unwrap_or("default");
    let vocabulary = match Vocabulary::read(metadata)? {
        Some(vocabulary) if matches!(kind, "gpt2" | "llama") => vocabulary,
        _ => {
            warnings.push(format!("no tokenizer is rebuilt: the file's is of the kind `{kind}`"));
            return Ok(None);
        }
    };
    let byte_level = kind == "gpt2";
    let parts = if byte_level {
        let Some(steps) = splitting(name) else {
            warnings.push(format!("no tokenizer is rebuilt: how `{name}` splits text is not known here"));
            return Ok(None);
        };
        byte_level_parts(metadata, &vocabulary, (name, steps))?
    } else {
        sentencepiece_parts(metadata, &vocabulary)
    };
    let added = vocabulary.added();
    if !added.is_empty() {
        warnings.push(
            "the file does not tell whether added tokens take in the spaces beside them: they are read as if none did"
                .to_owned(),
        );
    }
    let special = Special::read(metadata, &vocabulary, byte_level.then_some(name))?;
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "post_processor": special.post_processor(),
    });
    if let Json::Object(json) = &mut json {
        json.extend(parts);
    }
    let config = special.config(metadata);
    Ok(Some(Tokenizer { json, config, ends: special.all_ends(&vocabulary) }))
}

/// Tokens, with their types and scores.
struct Vocabulary<'a> {
    texts: &'a [String],
    types: &'a [i32],
    scores: &'a [f32],
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Option<Self>> {
        let list = |key: &str| metadata.get(&format!("{KEYS}.{key}"));
        let Some(Value::Array(Array::String(texts))) = list("tokens") else { return Ok(None) };
        let types: &[i32] = match list("token_type") {
            Some(Value::Array(Array::I32(types))) => types,
            None => &[],
            Some(_) => return Err(Failure::corrupt("it is no list of numbers").about(format!("{KEYS}.token_type"))),
        };
        let scores: &[f32] = match list("scores") {
            Some(Value::Array(Array::F32(scores))) => scores,
            None => &[],
            Some(_) => return Err(Failure::corrupt("it is no list of numbers").about(format!("{KEYS}.scores"))),
        };
        for (key, length) in [("token_type", types.len()), ("scores", scores.len())] {
            if length != 0 && length != texts.len() {
                let message = format!("it has {length} elements for {} tokens", texts.len());
                return Err(Failure::corrupt(message).about(format!("{KEYS}.{key}")));
            }
        }
        Ok(Some(Self { texts, types, scores }))
    }

    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(NORMAL)
    }

    /// The rows that are tokens: padding for the embedding's sake is none.
    fn tokens(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let texts = self.texts.iter().enumerate().map(|(id, text)| (id, text.as_str()));
        texts.filter(|(id, text)| self.kind(*id) != UNUSED || !text.starts_with("[PAD"))
    }

    fn map(&self) -> Map<String, Json> {
        self.tokens().map(|(id, text)| (text.to_owned(), id.into())).collect()
    }

    fn added(&self) -> Vec<Json> {
        let added = self.tokens().filter(|(id, _)| matches!(self.kind(*id), CONTROL | USER_DEFINED));
        let token = |(id, text): (usize, &str)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.kind(id) == CONTROL,
            })
        };
        added.map(token).collect()
    }
}

type Parts = Map<String, Json>;

fn object(value: Json) -> Parts {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

fn byte_level_parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>, (name, steps): (&str, Json)) -> Result<Parts> {
    let key = format!("{KEYS}.merges");
    let Some(Value::Array(Array::String(listed))) = metadata.get(&key) else {
        return Err(Failure::corrupt("the file has none, and BPE needs them").about(key));
    };
    let known: HashMap<&str, usize> = vocabulary.tokens().map(|(id, text)| (text, id)).collect();
    let mut merges = Vec::with_capacity(listed.len());
    for (index, merge) in listed.iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            let made = [*left, *right].concat();
            [left, right, &made.as_str()].into_iter().all(|text| known.contains_key(text))
        });
        let (left, right) = pair.ok_or_else(|| {
            Failure::corrupt(format!("merge {index}, {merge:?}, is no pair of tokens that make one")).about(&*key)
        })?;
        merges.push(json!([left, right]));
    }
    Ok(object(json!({
        "normalizer": null, "pre_tokenizer": steps,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splits_whole(name), "vocab": vocabulary.map(), "merges": merges,
        },
    })))
}

/// llama.cpp, as SentencePiece, merges the pair whose union has the best score; so every way to split a token is a
/// merge, in the order of the scores.
fn sentencepiece_parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Parts {
    let prefixes = flag(metadata, "add_space_prefix").unwrap_or(true);
    let normal = |id: usize| vocabulary.kind(id) == NORMAL;
    let known: HashMap<&str, usize> =
        vocabulary.tokens().filter(|(id, _)| normal(*id)).map(|(id, text)| (text, id)).collect();
    let score = |id: usize| vocabulary.scores.get(id).copied().unwrap_or(0.0);
    let mut merges: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for (id, text) in vocabulary.tokens().filter(|(id, text)| normal(*id) && text.len() <= LONGEST) {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(first), Some(second)) = (known.get(left), known.get(right)) {
                merges.push((score(id), *first, *second, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<_> = merges.into_iter().map(|(_, _, _, left, right)| json!([left, right])).collect();
    let marked = || vocabulary.tokens().map(|(id, _)| id).find(|id| vocabulary.kind(*id) == UNKNOWN);
    let unknown = id_of(metadata, "unknown_token_id").or_else(marked).and_then(|id| vocabulary.texts.get(id));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let steps = if prefixes { vec![prepend, replace] } else { vec![replace] };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixes {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    object(json!({
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary.map(), "merges": merges,
        },
    }))
}

fn flag(metadata: &Metadata, key: &str) -> Option<bool> {
    match metadata.get(&format!("{KEYS}.{key}")) {
        Some(Value::Bool(value)) => Some(*value),
        _ => None,
    }
}

fn id_of(metadata: &Metadata, key: &str) -> Option<usize> {
    metadata.get(&format!("{KEYS}.{key}")).and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok())
}

/// Special tokens, by the part that they play, and those that are added to a text.
struct Special {
    tokens: BTreeMap<&'static str, (usize, String)>,
    /// Further tokens that end a text.
    ends: Vec<usize>,
    first: bool,
    last: bool,
}

impl Special {
    /// `pre` is the name of the splitting under a byte-level vocabulary.
    fn read(metadata: &Metadata, vocabulary: &Vocabulary<'_>, pre: Option<&str>) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        for (part, key) in [
            ("bos", "bos_token_id"),
            ("eos", "eos_token_id"),
            ("unk", "unknown_token_id"),
            ("pad", "padding_token_id"),
            ("sep", "seperator_token_id"),
            ("mask", "mask_token_id"),
        ] {
            let Some(id) = id_of(metadata, key) else { continue };
            let text = vocabulary.texts.get(id).ok_or_else(|| {
                Failure::corrupt(format!("it is {id}, and there are {} tokens", vocabulary.texts.len()))
                    .about(format!("{KEYS}.{key}"))
            })?;
            tokens.insert(part, (id, text.clone()));
        }
        let ends = ["eot_token_id", "eom_token_id"].into_iter().filter_map(|key| id_of(metadata, key)).collect();
        let adds =
            |key: &str, part: &str, default: bool| flag(metadata, key).unwrap_or(default) && tokens.contains_key(part);
        let by_itself = pre.is_none_or(crate::tokenizer::adds_bos);
        let (first, last) = (adds("add_bos_token", "bos", by_itself), adds("add_eos_token", "eos", false));
        Ok(Self { tokens, ends, first, last })
    }

    fn post_processor(&self) -> Json {
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut named = Map::new();
        for (part, wanted, side) in [("bos", self.first, &mut before), ("eos", self.last, &mut after)] {
            if let Some((id, text)) = self.tokens.get(part).filter(|_| wanted) {
                side.push(text.as_str());
                named.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
            }
        }
        if named.is_empty() {
            return Json::Null;
        }
        let around = |sequence: &str, type_id: u32| {
            let token = |text: &&str| json!({"SpecialToken": {"id": text, "type_id": type_id}});
            let mut pieces: Vec<Json> = before.iter().map(token).collect();
            pieces.push(json!({"Sequence": {"id": sequence, "type_id": type_id}}));
            pieces.extend(after.iter().map(token));
            pieces
        };
        let single = around("A", 0);
        let pair = [single.clone(), around("B", 1)].concat();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named})
    }

    /// The token that ends a text comes first.
    fn all_ends(&self, vocabulary: &Vocabulary<'_>) -> Vec<usize> {
        let added = |id: &usize| matches!(vocabulary.kind(*id), CONTROL | USER_DEFINED);
        let known = vocabulary.tokens().filter(|(_, text)| KNOWN_ENDS.contains(text)).map(|(id, _)| id).filter(added);
        let mut ends: Vec<usize> = Vec::new();
        for id in self.tokens.get("eos").map(|(id, _)| *id).into_iter().chain(self.ends.iter().copied()).chain(known) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    fn config(&self, metadata: &Metadata) -> Json {
        let mut config = object(json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
        }));
        for key in ["add_bos_token", "add_eos_token"] {
            if let Some(adds) = flag(metadata, key) {
                config.insert(key.into(), adds.into());
            }
        }
        for (part, (_, text)) in &self.tokens {
            config.insert(format!("{part}_token"), text.as_str().into());
        }
        let template = |key: &str| metadata.get(key).and_then(Value::as_str);
        let main = template("tokenizer.chat_template");
        let mut templates: Vec<Json> = Vec::new();
        if let Some(Value::Array(Array::String(names))) = metadata.get("tokenizer.chat_templates") {
            templates.extend(names.iter().filter_map(|name| {
                let text = template(&format!("tokenizer.chat_template.{name}"))?;
                Some(json!({"name": name, "template": text}))
            }));
        }
        match main {
            Some(main) if templates.is_empty() => {
                config.insert("chat_template".into(), main.into());
            }
            Some(main) => templates.insert(0, json!({"name": "default", "template": main})),
            None => {}
        }
        if !templates.is_empty() {
            config.insert("chat_template".into(), templates.into());
        }
        Json::Object(config)
    }
}
