//! Tokens: llama.cpp, with the metadata that the plugin writes, against the tokenizers that the models
//! were trained with.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, fmt::Write};

use qhost_gguf::{
    metadata::{Metadata, Value},
    tokenizer::{Files, TokenizerMetadata, tokenizer_metadata},
};
use qhost_oracle::Model;
use qhost_tests::fixture;
use serde_json::{Value as Json, json};
use tokenizers::{
    Model as _, PreTokenizer as _, Tokenizer, Trainer as _,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
    tokenizer::{OffsetReferential, OffsetType, PreTokenizedString},
};

/// Tokens of the vocabulary that is trained here.
const VOCABULARY: usize = 4000;
/// Random texts that each comparison takes besides the hard one.
const RANDOM_TEXTS: usize = 4000;

fn read(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap()
}

fn hard_text() -> String {
    String::from_utf8(read("text/hard.txt")).unwrap()
}

/// Files in memory.
struct Folder(BTreeMap<String, Vec<u8>>);

impl Folder {
    fn of(files: &[(&str, Vec<u8>)]) -> Self {
        Self(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect())
    }
}

impl Files for Folder {
    fn read(&self, name: &str) -> qhost_plugin_api::sdk::Result<Option<Vec<u8>>> {
        Ok(self.0.get(name).cloned())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// llama.cpp with a file that holds nothing but a tokenizer.
fn llama(made: &TokenizerMetadata) -> Model {
    let mut all = Metadata::new();
    all.push("general.architecture", "llama").unwrap();
    all.append(made.metadata.clone()).unwrap();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((all.len() as u64).to_le_bytes());
    all.write(&mut bytes);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::load_vocabulary(&path).unwrap()
}

fn encode(model: &Model, text: &str, parse_special: bool) -> Vec<u32> {
    model.tokenize(text, false, parse_special).unwrap().into_iter().map(i32::cast_unsigned).collect()
}

/// Steele, Lea and Flood's `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % count as u64).unwrap()
    }
}

/// Ranges of code points, from controls to emoji, that every version of Unicode in use here knows.
const RANGES: [(u32, u32); 22] = [
    (0x00, 0x7f),
    (0x80, 0xff),
    (0x100, 0x17f),
    (0x300, 0x36f),
    (0x391, 0x3a1),
    (0x3b1, 0x3c9),
    (0x410, 0x44f),
    (0x5d0, 0x5ea),
    (0x620, 0x652),
    (0x660, 0x669),
    (0x904, 0x939),
    (0x93e, 0x94d),
    (0xe01, 0xe3a),
    (0x2010, 0x2029),
    (0x20a0, 0x20b5),
    (0x2200, 0x22ff),
    (0x2460, 0x2473),
    (0x3041, 0x3096),
    (0x30a1, 0x30fa),
    (0x4e00, 0x9fa5),
    (0xac00, 0xd7a3),
    (0x1f300, 0x1f64f),
];

/// The hard text, its lines, and random strings: a third of tricky pieces, one of shreds of that text, one of
/// characters from everywhere.
fn texts() -> Vec<String> {
    const PIECES: &str = " |  |   |\t|\n|\n\n|\r\n|\r|'s|'LL|'|a|b|Z|the| the|The|THE|12|1|1234567|.|,|!|?\n|...|-|_|/|(|)|\"|é|É|ß\
        |e\u{301}|\u{301}|ж|Ж|α|中|文|あ|ア|한|ا|ل|ש|न|ि|्|ก|า|😀|👩\u{200d}👩|\u{200d}|\u{200b}|\u{a0}|\u{3000}|\u{2028}|½|²|٣|१|Ⅷ|$|€\
        |+|=|<|>|<s>|<think>|▁é|\u{ad}|\u{feff}|ǅ|ʰ|ª|ﬁ|𝐀|𐍈|▁|Ġ|\u{0}|\u{b}|\u{c}|\u{7f}|\u{fffd}|\u{e000}";
    let hard = hard_text();
    let chars: Vec<char> = hard.chars().collect();
    let pieces: Vec<&str> = PIECES.split('|').collect();
    let mut texts = vec![hard.clone()];
    texts.extend(hard.split('\n').map(str::to_owned));
    let mut random = Random(42);
    for index in 0..RANDOM_TEXTS {
        let mut text = String::new();
        if index % 3 == 2 {
            for _ in 0..=random.below(20) {
                let (first, last) = RANGES[random.below(RANGES.len())];
                let code = first + u32::try_from(random.below((last - first + 1) as usize)).unwrap();
                text.push(char::from_u32(code).unwrap());
            }
        } else if index % 3 == 0 {
            for _ in 0..=random.below(14) {
                text.push_str(pieces[random.below(pieces.len())]);
            }
        } else {
            for _ in 0..=random.below(4) {
                let start = random.below(chars.len());
                text.extend(&chars[start..chars.len().min(start + 1 + random.below(12))]);
            }
        }
        texts.push(text);
    }
    texts
}

/// A BPE model whose tokens reach over every boundary that a pre-tokenizer could set (words, digits,
/// punctuation, line ends): each difference in splitting then shows in the ids.
fn wild_model() -> Json {
    let hard = hard_text();
    let chars: Vec<char> = hard.chars().collect();
    let mut random = Random(7);
    let mut corpus: Vec<String> = (0..3000)
        .map(|_| {
            let start = random.below(chars.len());
            chars[start..chars.len().min(start + 8 + random.below(60))].iter().collect()
        })
        .collect();
    for _ in 0..1500 {
        let mut numbers = String::new();
        for _ in 0..5 {
            let digits = u32::try_from(1 + random.below(9)).unwrap();
            write!(numbers, "{} ", random.below(10usize.pow(digits))).unwrap();
        }
        corpus.push(numbers);
    }
    // Special tokens are to be met as added tokens, not as merged ones.
    corpus.retain(|text| !text.contains("<|") && !text.contains("|>"));
    let bytes = ByteLevel::new(false, false, false);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .max_token_length(Some(24))
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer
        .feed(corpus.iter(), |text| {
            let mut pieces = PreTokenizedString::from(text);
            bytes.pre_tokenize(&mut pieces)?;
            let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
            Ok(splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect())
        })
        .unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    assert!(model.get_vocab_size() > VOCABULARY / 2);
    serde_json::to_value(&model).unwrap()
}

/// A `tokenizer.json` around a model.
fn document(model: &Json, pre_tokenizer: &Json, ignore_merges: bool) -> Json {
    let start = model["vocab"].as_object().unwrap().len();
    let added: Vec<Json> = [("<|begin|>", true), ("<s>", true), ("<think>", false), ("▁é", false)]
        .into_iter()
        .enumerate()
        .map(|(index, (text, special))| {
            json!({"id": start + index, "content": text, "special": special, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    let mut model = model.clone();
    model["ignore_merges"] = ignore_merges.into();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": model})
}

/// A structure of `pre_tokenizers.json`.
#[derive(serde::Deserialize)]
struct Structure {
    pre: String,
    ignore_merges: bool,
    bos: bool,
    different: Vec<String>,
    pre_tokenizer: Json,
}

#[test]
fn every_structure_splits_as_llama_cpp_does() {
    let structures: Vec<Structure> = serde_json::from_slice(&read("text/pre_tokenizers.json")).unwrap();
    let model = wild_model();
    let texts = texts();
    for structure in structures {
        let document = document(&model, &structure.pre_tokenizer, structure.ignore_merges).to_string();
        let original: Tokenizer = document.parse().unwrap();
        let config = if structure.bos { r#"{"bos_token": "<|begin|>"}"# } else { "{}" };
        let files = Folder::of(&[("tokenizer.json", document.into()), ("tokenizer_config.json", config.into())]);
        let rows = original.get_vocab_size(true) as u64 + 3;
        let made = tokenizer_metadata(&files, rows, &Json::Null, None).unwrap();
        let pre = made.metadata.get("tokenizer.ggml.pre").and_then(Value::as_str);
        assert_eq!(pre, Some(structure.pre.as_str()));

        let llama = llama(&made);
        let differs = |text: &str| encode(&llama, text, true) != original.encode_fast(text, false).unwrap().get_ids();
        let different: Vec<&String> = texts.iter().filter(|text| differs(text)).collect();
        if structure.different.is_empty() {
            assert!(different.is_empty(), "{}: {} texts, such as {:?}", structure.pre, different.len(), different[0]);
        } else {
            // llama.cpp's own limits, of which the user is told: most text is not touched by them.
            let share = 1..texts.len() / 4;
            assert!(share.contains(&different.len()), "{}: {} texts", structure.pre, different.len());
        }
    }
}

#[test]
fn a_trained_byte_level_model_gives_the_same_tokens() {
    let json = read("tinylm/tokenizer.json");
    let original = Tokenizer::from_bytes(&json).unwrap();
    let files =
        Folder::of(&[("tokenizer.json", json), ("tokenizer_config.json", read("tinylm/tokenizer_config.json"))]);
    let config: Json = serde_json::from_slice(&read("tinylm/config.json")).unwrap();
    let llama = llama(&tokenizer_metadata(&files, 4096, &config, None).unwrap());
    for text in texts() {
        let ids = encode(&llama, &text, true);
        assert_eq!(ids, original.encode_fast(text.as_str(), false).unwrap().get_ids(), "{text:?}");
        let signed: Vec<i32> = ids.into_iter().map(u32::cast_signed).collect();
        let pieces: Vec<u8> = signed.iter().flat_map(|&id| llama.piece(id, true).unwrap()).collect();
        assert_eq!(String::from_utf8(pieces).unwrap(), text);
    }
}

#[test]
fn small_byte_level_models_give_the_same_tokens() {
    for (name, pre) in [("bpe-gpt2", "gpt-2"), ("bpe-llama3", "dbrx"), ("bpe-qwen2", "qwen2")] {
        let json = read(&format!("tokenizers/{name}/tokenizer.json"));
        let config = read(&format!("tokenizers/{name}/tokenizer_config.json"));
        let original = Tokenizer::from_bytes(&json).unwrap();
        let files = Folder::of(&[("tokenizer.json", json), ("tokenizer_config.json", config)]);
        let made = tokenizer_metadata(&files, 320, &Json::Null, None).unwrap();
        assert_eq!(made.metadata.get("tokenizer.ggml.pre").and_then(Value::as_str), Some(pre));
        let llama = llama(&made);
        let added =
            ["<|begin_of_text|>", "<|end_of_text|>x", " <|end_of_text|> ", "a<|begin_of_text|><|end_of_text|>1"];
        for text in texts().iter().map(String::as_str).chain(added) {
            assert_eq!(
                encode(&llama, text, true),
                original.encode_fast(text, false).unwrap().get_ids(),
                "{name} {text:?}"
            );
        }
    }
}

/// What surrounds a text: llama.cpp's, with what the file says, and the tokenizer's own.
#[test]
fn special_tokens_are_added_as_by_the_post_processor() {
    let json: Json = serde_json::from_slice(&read("tokenizers/bpe-llama3/tokenizer.json")).unwrap();
    let (bos, eos) = ("<|begin_of_text|>", "<|end_of_text|>");
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let (a, b) = (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 0}}));
    let template = |before: &[Json], after: &[Json]| {
        let single = [before, std::slice::from_ref(&a), after].concat();
        let pair = [&single[..], before, std::slice::from_ref(&b), after].concat();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
            (bos): {"id": bos, "ids": [0], "tokens": [bos]}, (eos): {"id": eos, "ids": [1], "tokens": [eos]}}})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let with_bytes = json!({"type": "Sequence", "processors": [bytes, template(&[token(bos)], &[])]});
    for post_processor in [
        Json::Null,
        bytes.clone(),
        with_bytes,
        template(&[], &[]),
        template(&[token(bos)], &[]),
        template(&[], &[token(eos)]),
        template(&[token(bos)], &[token(eos)]),
    ] {
        for ignore_merges in [false, true] {
            let mut document = json.clone();
            document["post_processor"] = post_processor.clone();
            document["model"]["ignore_merges"] = ignore_merges.into();
            let original: Tokenizer = document.to_string().parse().unwrap();
            // The post-processor's word counts for more than a switch.
            let adds_bos = original.encode_fast("", true).unwrap().get_ids().first() == Some(&0);
            let mut configs = vec![json!({"bos_token": bos, "eos_token": eos})];
            if post_processor["type"] != "TemplateProcessing" || post_processor["single"][0] != a {
                configs.push(json!({"bos_token": bos, "eos_token": eos, "add_bos_token": adds_bos}));
            }
            if adds_bos || post_processor == bytes {
                configs.push(json!({"bos_token": bos, "eos_token": eos, "add_bos_token": !adds_bos}));
            }
            for config in configs {
                let files = Folder::of(&[
                    ("tokenizer.json", document.to_string().into()),
                    ("tokenizer_config.json", config.to_string().into()),
                ]);
                let llama = llama(&tokenizer_metadata(&files, 320, &Json::Null, None).unwrap());
                for text in ["", "Hello, world", " 123"] {
                    let ids = llama.tokenize(text, true, true).unwrap().into_iter().map(i32::cast_unsigned);
                    let expected = original.encode_fast(text, true).unwrap();
                    assert_eq!(ids.collect::<Vec<_>>(), expected.get_ids(), "{text:?} {config} {post_processor}");
                }
            }
        }
    }
}

#[test]
fn another_sentencepiece_model_gives_the_same_tokens() {
    let files = Folder::of(&[
        ("tokenizer.model", read("tokenizers/spm-llama/tokenizer.model")),
        ("tokenizer_config.json", read("tokenizers/spm-llama/tokenizer_config.json")),
    ]);
    let made = tokenizer_metadata(&files, 340, &Json::Null, None).unwrap();
    let llama = llama(&made);
    // llama.cpp lacks this step of the tokenizer's; all others are alike.
    assert!(made.warnings.iter().any(|warning| warning.contains("drops repeated spaces")), "{:?}", made.warnings);
    let drop_spaces = |text: &str| text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let golden: Vec<(String, Vec<u32>)> = serde_json::from_slice(&read("text/random.spm-llama.json")).unwrap();
    assert!(golden.len() > 200);
    for (text, ids) in golden {
        assert_eq!(encode(&llama, &drop_spaces(&text), false), ids, "{text:?}");
    }
}

#[test]
fn a_sentencepiece_model_gives_the_same_tokens() {
    let files = Folder::of(&[
        ("tokenizer.model", read("stories260K/tokenizer.model")),
        ("tokenizer_config.json", read("stories260K/tokenizer_config.json")),
    ]);
    let config: Json = serde_json::from_slice(&read("stories260K/config.json")).unwrap();
    let llama = llama(&tokenizer_metadata(&files, 512, &config, None).unwrap());
    let golden: Vec<Vec<u32>> = serde_json::from_slice(&read("text/hard.stories260K.json")).unwrap();
    let hard = hard_text();
    let texts: Vec<&str> = std::iter::once(hard.as_str()).chain(hard.split('\n')).collect();
    assert_eq!(texts.len(), golden.len());
    for (text, ids) in texts.into_iter().zip(golden) {
        // SentencePiece reads no special tokens in text.
        assert_eq!(encode(&llama, text, false), ids, "{text:?}");
    }
}

/// The pairs that make each piece of a SentencePiece model, best piece first: what transformers writes as
/// merges when it exports one.
fn exported(tokens: &[String], scores: &[f32], types: &[i32]) -> Json {
    let ids: BTreeMap<&str, usize> =
        tokens.iter().enumerate().filter(|(id, _)| types[*id] == 1).map(|(id, text)| (text.as_str(), id)).collect();
    let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
    for (text, &id) in &ids {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                pairs.push((id, left, right));
            }
        }
    }
    pairs.sort_by(|one, other| {
        scores[other.0].total_cmp(&scores[one.0]).then_with(|| (one.1, one.2).cmp(&(other.1, other.2)))
    });
    let merges: Vec<[&str; 2]> =
        pairs.iter().map(|&(_, left, right)| [tokens[left].as_str(), tokens[right].as_str()]).collect();
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    let special = |id: usize| {
        json!({"id": id, "content": tokens[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges}})
}

#[test]
fn an_exported_sentencepiece_model_gives_the_same_tokens() {
    use qhost_gguf::metadata::Array;
    let files = Folder::of(&[("tokenizer.model", read("stories260K/tokenizer.model"))]);
    let made = tokenizer_metadata(&files, 512, &Json::Null, None).unwrap();
    let array = |key: &str| match made.metadata.get(key) {
        Some(Value::Array(array)) => array.clone(),
        other => panic!("{key} is {other:?}"),
    };
    let (Array::String(tokens), Array::F32(scores), Array::I32(types)) =
        (array("tokenizer.ggml.tokens"), array("tokenizer.ggml.scores"), array("tokenizer.ggml.token_type"))
    else {
        panic!("lists of other types")
    };
    let document = exported(&tokens, &scores, &types).to_string();
    let original: Tokenizer = document.parse().unwrap();
    let files = Folder::of(&[("tokenizer.json", document.into())]);
    let made = tokenizer_metadata(&files, 512, &Json::Null, None).unwrap();
    assert_eq!(made.metadata.get("tokenizer.ggml.model").and_then(Value::as_str), Some("llama"));
    let llama = llama(&made);
    for text in texts() {
        assert_eq!(
            encode(&llama, &text, true),
            original.encode_fast(text.as_str(), false).unwrap().get_ids(),
            "{text:?}"
        );
    }
}

/// Gemma's tokenizer.json: no space before a text, a split that does nothing, and tokens for line ends and tags.
#[test]
fn an_exported_model_without_a_prefix_gives_the_same_tokens() {
    use qhost_gguf::metadata::Array;
    let files = Folder::of(&[("tokenizer.model", read("stories260K/tokenizer.model"))]);
    let made = tokenizer_metadata(&files, 512, &Json::Null, None).unwrap();
    let array = |key: &str| match made.metadata.get(key) {
        Some(Value::Array(array)) => array.clone(),
        other => panic!("{key} is {other:?}"),
    };
    let (Array::String(tokens), Array::F32(scores), Array::I32(types)) =
        (array("tokenizer.ggml.tokens"), array("tokenizer.ggml.scores"), array("tokenizer.ggml.token_type"))
    else {
        panic!("lists of other types")
    };
    let mut document = exported(&tokens, &scores, &types);
    document["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    document["pre_tokenizer"] = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false});
    let added = [("\n\n", false), ("<table>", false), ("<start_of_turn>", true)];
    for (id, (text, special)) in (512..).zip(added) {
        let token = json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false});
        document["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let document = document.to_string();
    let original: Tokenizer = document.parse().unwrap();
    let config = json!({"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>"});
    let files =
        Folder::of(&[("tokenizer.json", document.into()), ("tokenizer_config.json", config.to_string().into())]);
    // More rows than tokens, as in Gemma 3.
    let made = tokenizer_metadata(&files, 576, &json!({"model_type": "gemma3_text"}), None).unwrap();
    assert_eq!(made.metadata.get("tokenizer.ggml.add_space_prefix"), Some(&false.into()));
    let llama = llama(&made);
    assert_eq!(llama.vocabulary_size(), 576);
    let turns = ["<start_of_turn>user\n\nHi <table>  <table>x\n\n\n", "a<table>\n\n\n\n b"];
    for text in texts().iter().map(String::as_str).chain(turns) {
        assert_eq!(encode(&llama, text, true), original.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
    }
}

#[test]
fn texts_that_come_twice_do_not_abort_llama_cpp() {
    let config = json!({"added_tokens_decoder": {
        "512": {"content": "▁the", "special": true},
        "513": {"content": "<s>", "special": true},
        "514": {"content": "[PAD519]"},
        "515": {"content": ""},
        "516": {"content": "\u{0}"},
    }, "bos_token": "<s>"});
    let files = Folder::of(&[
        ("tokenizer.model", read("stories260K/tokenizer.model")),
        ("tokenizer_config.json", config.to_string().into()),
    ]);
    let made = tokenizer_metadata(&files, 520, &Json::Null, None).unwrap();
    assert_eq!(made.metadata.get("tokenizer.ggml.bos_token_id").and_then(Value::as_u64), Some(1));
    assert_eq!(llama(&made).vocabulary_size(), 520);
}
