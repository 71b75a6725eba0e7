//! Data sets: JSON lines and parquet files, as rows for a calibration and as text for an evaluation.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use qhost::{
    cancel::CancelFlag,
    dataset::{self, Request, Sampling, Tokenizer, Tokens},
    hub::Settings,
};

use super::with_files;
use crate::{Form, Read, Target, seeds};

/// Tokens of the model that data are for: more than the tokenizer has, as some models do.
const VOCABULARY: u64 = 1 << 16;

/// Lines of JSON: texts, conversations or rows of tokens.
pub const LINES: Target = Target {
    name: "lines",
    form: Form::Lines,
    read: |bytes| read("data.jsonl", bytes),
    seeds: seeds::lines,
    memory: 64 << 20,
    memory_per_byte: 2000,
    changes: 1000,
};

/// A parquet file with the same.
pub const PARQUET: Target = Target {
    name: "parquet",
    form: Form::Bytes,
    read: |bytes| read("data.parquet", bytes),
    seeds: seeds::parquets,
    memory: 64 << 20,
    memory_per_byte: 2000,
    changes: 2000,
};

/// A tokenizer with a chat template.
fn tokenizer() -> Option<&'static Tokenizer> {
    static TOKENIZER: OnceLock<Option<Tokenizer>> = OnceLock::new();
    let made =
        || Tokenizer::of_texts(&seeds::text("tokenizers/bpe-gpt2/tokenizer.json"), Some(&seeds::chatting())).ok();
    TOKENIZER.get_or_init(made).as_ref()
}

fn read(name: &str, bytes: &[u8]) -> Read {
    let tokenizer = tokenizer();
    assert!(tokenizer.is_some(), "there is no tokenizer");
    let hub = Settings {
        endpoint: String::new(),
        token: None,
        cache: PathBuf::new(),
        offline: true,
        timeout: Duration::from_secs(1),
        certificates: None,
    };
    with_files(&[(name, bytes)], |folder| {
        let path = folder.join(name);
        let cancel = CancelFlag::default();
        let request = Request { name: path.to_str(), vocabulary: Some(VOCABULARY), hub: &hub, cancel: &cancel };
        let sampling = Sampling { samples: 3, seq_len: 16, seed: 1 };
        let drawn = dataset::calibration(&request, sampling, tokenizer);
        if let Ok(drawn) = &drawn {
            assert!(drawn.rows.len() <= 3 && in_vocabulary(&drawn.rows), "{drawn:?}");
        }
        match dataset::evaluation(&request, tokenizer) {
            Ok(read) => {
                let rows = match read.tokens {
                    Tokens::Text(row) => vec![row],
                    Tokens::Rows(rows) => rows,
                };
                assert!(in_vocabulary(&rows) && rows.iter().any(|row| !row.is_empty()));
                if drawn.is_ok() { Read::Whole } else { Read::Refused }
            }
            Err(_) => Read::Refused,
        }
    })
}

fn in_vocabulary(rows: &[Vec<u32>]) -> bool {
    rows.iter().flatten().all(|id| u64::from(*id) < VOCABULARY)
}
