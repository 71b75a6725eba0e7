//! Tokens are those of transformers.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Error, Tokenizer};
use crate::exit_code::{ExitCode, Fault as _};

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(path)
}

/// Files in memory.
fn of(files: &BTreeMap<String, Vec<u8>>) -> Result<Option<Tokenizer>, Error> {
    Tokenizer::of(&|name| -> io::Result<_> { Ok(files.get(name).cloned()) })
}

fn folder(path: &str) -> BTreeMap<String, Vec<u8>> {
    let names = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), fs::read(fixture(path).join(name)).ok()?))).collect()
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A folder of files whose `tokenizer_config.json` is changed, and what transformers makes of texts with it.
#[derive(Deserialize)]
struct Case {
    files: String,
    set: Map<String, Value>,
    without: Vec<String>,
    hard: Hard,
    texts: Vec<(String, Vec<u32>, Vec<u32>)>,
    bos: Option<u32>,
}

#[derive(Deserialize)]
struct Hard {
    tokens: usize,
    sha256: String,
}

#[test]
fn tokens_are_those_of_transformers() {
    let golden: Golden = serde_json::from_str(&fs::read_to_string(fixture("text/tokenized.json")).unwrap()).unwrap();
    let hard = fs::read_to_string(fixture("text/hard.txt")).unwrap();
    assert!(golden.cases.len() >= 10);
    for case in golden.cases {
        let mut files = folder(&case.files);
        let mut config: Map<String, Value> = serde_json::from_slice(&files["tokenizer_config.json"]).unwrap();
        config.extend(case.set.clone());
        config.retain(|key, _| !case.without.contains(key));
        files.insert("tokenizer_config.json".into(), serde_json::to_vec(&config).unwrap());
        let tokenizer = of(&files).unwrap().unwrap();
        let name = format!("{} with {:?} without {:?}", case.files, case.set, case.without);
        for (text, special, bare) in case.texts {
            assert_eq!(tokenizer.encode(&text, true).unwrap(), special, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(&text, false).unwrap(), bare, "{name}: {text:?}");
        }
        let tokens = tokenizer.encode(&hard, true).unwrap();
        let mut digest = Sha256::new();
        for token in &tokens {
            digest.update(token.to_le_bytes());
        }
        assert_eq!(
            (tokens.len(), crate::text::hex(&digest.finalize())),
            (case.hard.tokens, case.hard.sha256),
            "{name}"
        );
        assert_eq!(tokenizer.bos(), case.bos, "{name}");
    }
}

#[derive(Deserialize)]
struct SentencePiece {
    models: BTreeMap<String, Vec<(String, Vec<u32>)>>,
}

/// Kinds of models that no class of transformers is known for: what counts is SentencePiece itself.
#[test]
fn tokens_are_those_of_sentencepiece() {
    let golden = fs::read_to_string(fixture("text/sentencepiece.json")).unwrap();
    let golden: SentencePiece = serde_json::from_str(&golden).unwrap();
    assert_eq!(golden.models.len(), 2);
    for (name, texts) in golden.models {
        let tokenizer = of(&folder(&format!("tokenizers/{name}"))).unwrap().unwrap();
        assert_eq!(tokenizer.vocabulary(), 400);
        assert!(!tokenizer.adds_bos());
        for (text, expected) in texts {
            assert_eq!(tokenizer.encode(&text, true).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

/// As transformers makes it of `vocab.json` and `merges.txt`: the same tokenizer in two files.
#[test]
fn vocabulary_and_merges_are_a_tokenizer() {
    let whole: Value = serde_json::from_slice(&folder("tokenizers/bpe-gpt2")["tokenizer.json"]).unwrap();
    let merges = whole["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge.as_array() {
        Some(pair) => format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        None => format!("{}\n", merge.as_str().unwrap()),
    });
    let merges = "#version: 0.2\n".to_owned() + &merges.collect::<String>();
    let mut files = BTreeMap::from([
        ("vocab.json".to_owned(), whole["model"]["vocab"].to_string().into_bytes()),
        ("merges.txt".to_owned(), merges.into_bytes()),
        ("tokenizer_config.json".to_owned(), json!({"tokenizer_class": "GPT2Tokenizer"}).to_string().into_bytes()),
    ]);
    let tokenizer = of(&files).unwrap().unwrap();
    let hard = fs::read_to_string(fixture("text/hard.txt")).unwrap();
    let expected = of(&folder("tokenizers/bpe-gpt2")).unwrap().unwrap();
    // Added tokens are in neither of the two files.
    for line in hard.lines().filter(|line| !line.contains("<|")) {
        assert_eq!(tokenizer.encode(line, true).unwrap(), expected.encode(line, true).unwrap(), "{line}");
    }
    files.insert("tokenizer_config.json".into(), br#"{"tokenizer_class": "Qwen2Tokenizer"}"#.to_vec());
    assert_eq!(of(&files).unwrap_err().exit_code(), ExitCode::Unsupported);
}

#[test]
fn a_tokenizer_is_made_of_texts_in_memory() {
    let files = folder("tinylm");
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    let (json, config) = (text("tokenizer.json"), text("tokenizer_config.json"));
    let tokenizer = Tokenizer::of_texts(&json, Some(&config)).unwrap();
    assert_eq!(tokenizer.vocabulary(), 4096);
    assert!(tokenizer.template().is_some());
    let tokens = tokenizer.encode("Once upon a time", true).unwrap();
    assert_eq!(tokens, Tokenizer::of_texts(&json, None).unwrap().encode("Once upon a time", true).unwrap());
}

#[test]
fn files_that_are_no_tokenizer_are_told() {
    assert!(of(&BTreeMap::new()).unwrap().is_none());
    let model = folder("stories260K")["tokenizer.model"].clone();
    for (name, bytes, code) in [
        ("tokenizer.json", b"{}".to_vec(), ExitCode::Corrupt),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), ExitCode::Corrupt),
        ("tokenizer.model", model[..model.len() / 2].to_vec(), ExitCode::Corrupt),
        ("tokenizer.model", Vec::new(), ExitCode::Corrupt),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n".to_vec(), ExitCode::Unsupported),
    ] {
        let error = of(&BTreeMap::from([(name.to_owned(), bytes)])).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Transformers leaves the post-processor of a `tokenizer.json` as it is, whatever `add_bos_token` says.
#[test]
fn the_post_processor_says_what_goes_around_a_text() {
    let mut files = folder("tinylm");
    let plain = of(&files).unwrap().unwrap();
    assert!(!plain.adds_bos());
    let mut json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    let token = |name: &str| {
        let added = json["added_tokens"].as_array().unwrap();
        u32::try_from(added.iter().find(|token| token["content"] == name).unwrap()["id"].as_u64().unwrap()).unwrap()
    };
    let (bos, eos) = (token("<|begin_of_text|>"), token("<|end_of_text|>"));
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let entry = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special("<|begin_of_text|>"), {"Sequence": {"id": "A", "type_id": 0}}, special("<|end_of_text|>")],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|begin_of_text|>": entry("<|begin_of_text|>", bos),
            "<|end_of_text|>": entry("<|end_of_text|>", eos),
        },
    });
    files.insert("tokenizer.json".into(), json.to_string().into_bytes());
    let tokenizer = of(&files).unwrap().unwrap();
    assert!(tokenizer.adds_bos() && tokenizer.bos() == Some(bos));
    for text in ["", "a", "Once upon a time"] {
        let bare = plain.encode(text, true).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), [vec![bos], bare.clone(), vec![eos]].concat(), "{text:?}");
        assert_eq!(tokenizer.encode(text, false).unwrap(), bare);
    }
}

#[test]
fn a_text_that_is_cut_has_the_tokens_of_the_whole() {
    let hard = fs::read_to_string(fixture("text/hard.txt")).unwrap();
    let words = [
        "a",
        "don't",
        "we'LL",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        ".",
        "?!",
        "7",
        "é",
        "e\u{301}",
        "<|begin_of_text|>",
    ];
    let mut state = 0usize;
    let random: String = (0..20_000)
        .map(|_| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345) % (1 << 31);
            words[(state >> 16) % words.len()]
        })
        .collect();
    for name in ["tinylm", "tokenizers/bpe-gpt2", "tokenizers/bpe-llama3", "tokenizers/bpe-qwen2"] {
        let tokenizer = of(&folder(name)).unwrap().unwrap();
        assert!(tokenizer.may_cut, "{name}");
        for text in [&hard, &random] {
            let whole = tokenizer.at_once(text).unwrap();
            assert!(super::cut::parts(text, 1).len() > 20);
            for length in [1, 100, 1000] {
                assert!(tokenizer.in_parts(text, length).unwrap() == whole, "{name}, {length}");
            }
        }
    }
    for name in ["stories260K", "tokenizers/spm-llama", "tokenizers/spm-user"] {
        assert!(!of(&folder(name)).unwrap().unwrap().may_cut, "{name}");
    }
}

#[test]
fn parts_are_the_whole_text() {
    for text in ["", "a", "\n", "a\nb\n\nc.\nd", "\na\n"] {
        for length in 0..4 {
            assert_eq!(super::cut::parts(text, length).concat(), text, "{text:?}, {length}");
        }
    }
    assert_eq!(super::cut::parts("a\nb.\nc d é e\n", 1), ["a", "\nb.\nc", " d", " é e", "\n"]);
}
