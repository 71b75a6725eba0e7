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
        tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
        assert_eq!(
            (tokens.len(), crate::text::hex(&digest.finalize())),
            (case.hard.tokens, case.hard.sha256),
            "{name}"
        );
        assert_eq!(tokenizer.bos(), case.bos, "{name}");
    }
}
