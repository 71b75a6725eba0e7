//! Which kind of tokenizer a model brings, and what to say of the kinds that cannot become GGUF.
//!
//! It looks at names and at the outside of files only.

use qhost_plugin_api::sdk::Failure;

use super::hugging_face::{self, TokenizerJson};

/// Whether bytes become characters before the model sees them.
pub(super) fn is_byte_level<M>(json: &TokenizerJson<M>) -> bool {
    [(&json.pre_tokenizer, "pretokenizers"), (&json.decoder, "decoders")].into_iter().any(|(node, list)| {
        hugging_face::steps(node, list).into_iter().any(|step| hugging_face::kind(step) == "ByteLevel")
    })
}

/// Whether a file is a list of tokens in base 64 with their ranks, as tiktoken writes it.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
    let base64 =
        |word: &[u8]| !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    words.next().is_some_and(base64) && words.next().is_some_and(number) && words.next().is_none()
}

/// A kind of tokenizer that GGUF has no place for.
pub(super) fn foreign(what: &str) -> Failure {
    Failure::unsupported(format!("the tokenizer is {what}, which cannot be written as GGUF")).hint(
        "what can be: a tokenizer.json with a byte-level BPE model, one made from a SentencePiece BPE model, or that \
         model itself as tokenizer.model",
    )
}

/// Neither `tokenizer.model` nor `tokenizer.json` is there: tells what is.
pub(super) fn missing(names: &[String]) -> Failure {
    const SAVE: &str = "make a tokenizer.json with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)";
    let there = |name: &str| names.iter().any(|file| file == name);
    let tiktoken = names.iter().find(|name| name.ends_with(".tiktoken") || *name == "tiktoken.model");
    let (what, subject) = if there("vocab.json") && there("merges.txt") {
        ("a BPE vocabulary in two files, without the rules by which it splits text", "vocab.json")
    } else if there("tekken.json") {
        ("in Mistral's own form only", "tekken.json")
    } else if let Some(name) = tiktoken {
        ("a tiktoken file, without the rules by which it splits text", name.as_str())
    } else if there("vocab.txt") {
        ("a WordPiece vocabulary", "vocab.txt")
    } else {
        return Failure::corrupt("the model has no tokenizer: neither tokenizer.json nor tokenizer.model is there")
            .hint("fetch the tokenizer's files too; they lie beside config.json");
    };
    Failure::unsupported(format!("the tokenizer is {what}")).about(subject).hint(SAVE)
}
