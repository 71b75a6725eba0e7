//! The host and the models that plugins are tried with.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Settings, TestHost};
use crate::{
    documents::{RoleKind, SourceTensor},
    sdk::{COMPUTE, REPLAY, STATISTICS, STATISTICS_2, SURVEY, testing::TestModel},
};

/// What loops run on at most, and what the host says of itself.
pub(super) const THREADS: u32 = 7;

/// What a plan may need of a host that runs models.
const TOLD: [&str; 5] = [COMPUTE, REPLAY, STATISTICS, STATISTICS_2, SURVEY];

/// The host of all checks. It says that it runs models, so that plans that need that are made and looked at; it has no more
/// than activations that were drawn, and no arithmetic but what it was given.
pub(super) fn host(settings: &Settings) -> TestHost {
    let mut host = TestHost::new().threads(THREADS).telling(&TOLD);
    host.services.extend(settings.compute.iter().map(|compute| (COMPUTE.to_owned(), Arc::clone(&compute.0))));
    host
}

/// The model that a format has to be able to take.
pub(super) fn ordinary(settings: &Settings) -> TestModel {
    let (layers, hidden, ffn, vocabulary) = settings.size;
    dressed(TestModel::llama(layers, hidden, ffn, vocabulary), settings)
}

/// Models of shapes that few formats have thought of, with words about each.
pub(super) fn odd(settings: &Settings) -> Vec<(&'static str, TestModel)> {
    let shapes = [
        ("a matrix of one row", (1, 32, 1, 32)),
        ("matrices of one column", (1, 1, 1, 32)),
        ("rows of 33 and 7 weights", (1, 33, 7, 5)),
        ("rows of 96 and 172 weights", (1, 96, 172, 257)),
        ("tensors without a weight", (1, 32, 0, 32)),
    ];
    let made = |(words, (layers, hidden, ffn, vocabulary))| {
        (words, dressed(TestModel::llama(layers, hidden, ffn, vocabulary), settings))
    };
    shapes.map(made).into()
}

/// A model as no disk can hold it, of which only a plan can be made.
pub(super) fn large(settings: &Settings) -> TestModel {
    dressed(TestModel::llama_outline(1, 1 << 26, 1 << 28, 1 << 31), settings)
}

/// The tensor of the first linear in the model, by its id.
pub(super) fn linear(model: &TestModel) -> Option<(u32, &SourceTensor)> {
    let tensors = || (0_u32..).zip(&model.model.tensors);
    tensors().find(|(_, tensor)| tensor.role.kind == RoleKind::FfnDown)
}

/// Puts small files beside a model.
fn dressed(mut model: TestModel, settings: &Settings) -> TestModel {
    let config = model.model.config.to_string();
    let mut files = settings.companions.clone();
    if !files.contains_key("config.json") {
        files.insert("config.json".into(), config.into_bytes());
    }
    if !files.keys().any(|name| name.starts_with("tokenizer")) {
        files.insert("tokenizer.json".into(), tokenizer().to_string().into_bytes());
        let kind = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"});
        files.insert("tokenizer_config.json".into(), kind.to_string().into_bytes());
    }
    for (name, bytes) in files {
        model.companion(name, bytes);
    }
    model
}

/// A tokenizer of single bytes, in the letters that byte-level tokenizers have for them.
fn tokenizer() -> Value {
    let mut vocabulary = Map::new();
    let mut without_letter = 0;
    for byte in 0..256_u32 {
        let letter = if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
            byte
        } else {
            without_letter += 1;
            255 + without_letter
        };
        let letter = char::from_u32(letter).unwrap_or_default();
        vocabulary.insert(letter.to_string(), byte.into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added = [special(256, "<s>"), special(257, "</s>")];
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}
