//! Tokenizers and chat templates, as the host reads them.

use minijinja::Value as Jinja;
use qhost::dataset::{ChatTemplate, Tokenizer};

use super::files_of;
use crate::{Form, Read, Target, seeds};

/// Texts with letters of several scripts, white space of all kinds, and what tokenizers treat specially.
const TEXTS: [&str; 3] = [
    "Hello, world 1234!  \n\n it's",
    "größer ▁▁ 你好 🦙\u{301}\t\r\n<s>[INST]</s><|endoftext|>",
    "\0\u{feff}\u{2028}a b",
];

/// `tokenizer_config.json`, `special_tokens_map.json` and `tokenizer.json`.
pub const TOKENIZER: Target = Target {
    name: "tokenizer",
    form: Form::Files,
    read: |input| {
        let [config, special, tokenizer] = files_of(input);
        encode(&[
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", special),
            ("tokenizer.json", tokenizer),
        ])
    },
    seeds: seeds::tokenizers,
    // Patterns become machines of up to some megabytes each.
    memory: 64 << 20,
    memory_per_byte: 2000,
    changes: 1000,
};

/// `tokenizer_config.json` and a SentencePiece model.
pub const SENTENCEPIECE: Target = Target {
    name: "sentencepiece",
    form: Form::Bytes,
    read: |input| {
        let [config, model] = files_of(input);
        encode(&[("tokenizer_config.json", config), ("tokenizer.model", model)])
    },
    seeds: seeds::sentencepieces,
    memory: 16 << 20,
    memory_per_byte: 2000,
    changes: 1000,
};

/// `tokenizer_config.json`, `vocab.json` and `merges.txt`.
pub const VOCABULARY: Target = Target {
    name: "vocabulary",
    form: Form::Files,
    read: |input| {
        let [config, vocabulary, merges] = files_of(input);
        encode(&[("tokenizer_config.json", config), ("vocab.json", vocabulary), ("merges.txt", merges)])
    },
    seeds: seeds::vocabularies,
    memory: 16 << 20,
    memory_per_byte: 2000,
    changes: 1000,
};

/// Reads a tokenizer, and encodes texts if it is one: on a thread of its own, for the library remembers words by the thread
/// and the tokenizer, and those of tokenizers that are gone until the thread goes.
fn encode(files: &[(&str, &[u8])]) -> Read {
    let encoded = std::thread::scope(|scope| scope.spawn(|| encode_here(files)).join());
    encoded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn encode_here(files: &[(&str, &[u8])]) -> Read {
    // An empty file is one that is not there.
    let file = |name: &str| {
        let found = files.iter().find(|(known, bytes)| *known == name && !bytes.is_empty());
        Ok(found.map(|(_, bytes)| bytes.to_vec()))
    };
    let Ok(Some(tokenizer)) = Tokenizer::of(&file) else { return Read::Refused };
    for text in TEXTS {
        if let (Ok(bare), Ok(whole)) = (tokenizer.encode(text, false), tokenizer.encode(text, true)) {
            assert!(whole.len() >= bare.len(), "{bare:?} is more than {whole:?}");
        }
    }
    Read::Whole
}

/// A chat template, and a conversation as JSON.
pub const TEMPLATE: Target = Target {
    name: "template",
    form: Form::Files,
    read: template,
    seeds: seeds::templates,
    memory: 256 << 20,
    memory_per_byte: 2000,
    changes: 2000,
};

fn template(input: &[u8]) -> Read {
    let [source, messages] = files_of(input);
    let (Ok(source), Ok(messages)) = (std::str::from_utf8(source), serde_json::from_slice::<Jinja>(messages)) else {
        return Read::Refused;
    };
    let tokens = vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    let rendered = ChatTemplate::new(source, tokens).map(|template| template.render(&messages, None));
    if matches!(rendered, Ok(Ok(_))) { Read::Whole } else { Read::Refused }
}
