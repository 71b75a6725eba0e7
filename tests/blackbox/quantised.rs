//! Our own files as a source: what the host makes of them is the checkpoint that they were made from.
#![expect(clippy::panic, reason = "what must not come fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost::{
    cancel::CancelFlag,
    exit_code::Fault,
    model,
    plugin::{Catalog, SearchPath, SearchSettings},
    quantised::{Error, QuantisedSource},
    run::{self, Resources},
    source,
};
use qhost_tests::{checkpoint::copy_of, command::dist, fixture};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::inspect::quantize;

/// What a config says beside the hyperparameters that counts for a forward pass.
const KEYS: [&str; 14] = [
    "logit_scale",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "use_parallel_residual",
    "swiglu_alpha",
    "swiglu_limit",
    "use_qk_norm",
    "topk_method",
    "no_rope_layer_interval",
];

pub(crate) fn open(path: &Path) -> Result<QuantisedSource, Error> {
    let settings = SearchSettings { given: vec![dist().join("plugins")], ..SearchSettings::default() };
    let catalog = Catalog::search(&SearchPath::new(&settings)).unwrap();
    let resources = Resources {
        isolate: false,
        threads: 2,
        max_memory: None,
        log_level: 1,
        cancel: CancelFlag::default(),
        device: run::DeviceChoice::Cpu,
    };
    QuantisedSource::open(path, None, &catalog, &run::connect(&resources).unwrap())
}

fn with_tokenizer(model: &Path, tokenizer: &str) {
    for entry in fs::read_dir(fixture("tokenizers").join(tokenizer)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
}

/// The weights of a checkpoint, by name.
fn weights(model: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let widened = |dtype: Dtype, data: &[u8]| match dtype {
        Dtype::BF16 => data.as_chunks().0.iter().map(|raw| half::bf16::from_le_bytes(*raw).to_f32()).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|raw| half::f16::from_le_bytes(*raw).to_f32()).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect(),
        other => panic!("{other:?}"),
    };
    tensors.tensors().into_iter().map(|(name, tensor)| (name, widened(tensor.dtype(), tensor.data()))).collect()
}

/// How far a weight may be from that of the checkpoint, relative to the tensor's largest.
fn bound(level: &str) -> f32 {
    match level {
        // Half a step of 127, and the scale's rounding to binary16.
        "Q8_0" => 0.57 / 127.0,
        _ => 0.0,
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(|truth| f64::from(u8::from(truth))))
}

fn same_config(name: &str, found: &qhost_plugin_api::documents::Model, original: &qhost_plugin_api::documents::Model) {
    let (one, other) = (&found.hyperparameters, &original.hyperparameters);
    assert_eq!(
        (one.layers, one.hidden_size, one.ffn_size),
        (other.layers, other.hidden_size, other.ffn_size),
        "{name}"
    );
    assert_eq!((one.heads, one.kv_heads, one.head_dim), (other.heads, other.kv_heads, other.head_dim), "{name}");
    assert_eq!((one.vocab_size, one.context_length), (other.vocab_size, other.context_length), "{name}");
    assert_eq!(one.norm_epsilon.to_bits(), other.norm_epsilon.to_bits(), "{name}");
    assert_eq!((one.rope.theta, &one.rope.kind), (other.rope.theta, &other.rope.kind), "{name}");
    assert_eq!((one.rope.dimensions, one.rope.local_theta), (other.rope.dimensions, other.rope.local_theta), "{name}");
    assert_eq!(one.tied_embeddings, other.tied_embeddings, "{name}");
    assert_eq!(one.latent_attention, other.latent_attention, "{name}");
    let gelu = |activation: &str| activation.contains("gelu");
    assert_eq!(gelu(&one.activation), gelu(&other.activation), "{name}: {} {}", one.activation, other.activation);
    // In the file that llama.cpp calls llama there is no window.
    if !matches!(name, "mistral" | "mixtral") {
        let windows = (one.sliding_window, &one.windowed_layers);
        assert_eq!(windows, (other.sliding_window, &other.windowed_layers), "{name}");
    }
    match (&one.experts, &other.experts) {
        (Some(one), Some(other)) => {
            let (mut one, mut other) = (one.clone(), other.clone());
            for experts in [&mut one, &mut other] {
                if experts.groups.is_none_or(|groups| groups < 2) {
                    (experts.groups, experts.groups_used) = (None, None);
                }
            }
            assert_eq!(one, other, "{name}");
        }
        (one, other) => assert_eq!(one, other, "{name}"),
    }
    for (key, expected) in &other.rope.parameters {
        // The first is in `dimensions`, and the second is the same number for all layers of a file.
        if ["partial_rotary_factor"].contains(&key.as_str()) || expected.is_null() {
            continue;
        }
        match one.rope.parameters.get(key).map(|found| (number(found), number(expected), found)) {
            Some((Some(found), Some(expected), _)) => assert!((found - expected).abs() < 1e-6, "{name}: {key} {found}"),
            Some((_, _, found)) => {
                let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
                let close = |(a, b): (&Value, &Value)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6;
                assert!(found.len() == expected.len() && found.iter().zip(expected).all(close), "{name}: {key}");
            }
            // Phi-3 states it without a scaling as well.
            None => assert_eq!(key, "original_max_position_embeddings", "{name}"),
        }
    }
    for key in KEYS {
        let value = |config: &Value| config.get(key).filter(|value| !value.is_null()).cloned();
        let (found, expected) = (value(&found.config), value(&original.config));
        match (found.as_ref().and_then(number), expected.as_ref().and_then(number)) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-6, "{name}: {key} {found}"),
            (found, None) => assert!(expected.is_none() || found.is_none(), "{name}: {key}"),
            (None, Some(expected)) => panic!("{name}: {key} is {expected}"),
        }
    }
}

fn same_weights(name: &str, level: &str, quantised: &QuantisedSource, original: &[(String, String)], model: &Path) {
    let weights = weights(model);
    let expected: BTreeMap<&str, &str> = original.iter().map(|(key, name)| (key.as_str(), name.as_str())).collect();
    assert_eq!(expected.len(), quantised.model.tensors.len(), "{name}: another number of tensors");
    for (id, tensor) in (0..).zip(&quantised.model.tensors) {
        let label = format!("{name} {level} {}", tensor.name);
        let stored = &weights[expected[key(tensor).as_str()]];
        let found = quantised.rows(id, 0, tensor.rows()).unwrap();
        assert_eq!(found.len(), stored.len(), "{label}");
        // Gains are stored with a 1 added, which may cost the last bits.
        let shifted = name.starts_with("gemma") && tensor.role.kind.name().ends_with("norm");
        let expect = |weight: &f32| if shifted { (weight + 1.0) - 1.0 } else { *weight };
        let largest = stored.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let most = bound(level) * largest;
        let fits = |(found, weight): (&f32, &f32)| (found - expect(weight)).abs() <= most;
        let wrong = found.iter().zip(stored).position(|pair| !fits(pair));
        assert_eq!(wrong, None, "{label}: {:?}", wrong.map(|at| (found[at], stored[at])));
        // Any rows are those of the whole.
        let (first, rows) = (tensor.rows() / 3, tensor.rows().div_ceil(3));
        let rows = rows.min(tensor.rows() - first);
        let start = usize::try_from(first * tensor.row_elements()).unwrap();
        let part = quantised.rows(id, first, rows).unwrap();
        assert!(part.iter().zip(&found[start..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{label}");
    }
}

/// Unit and role.
fn key(tensor: &qhost_plugin_api::documents::SourceTensor) -> String {
    format!("{} {}", tensor.unit, tensor.role)
}

fn every_family(level: &str) {
    let mut families: Vec<PathBuf> =
        fs::read_dir(fixture("arch")).unwrap().map(|entry| entry.unwrap().path()).collect();
    families.sort();
    let mut read = 0;
    for family in families {
        let name = family.file_name().unwrap().to_str().unwrap();
        // These are refused by the writer.
        if ["opt", "smollm3", "exaone4"].contains(&name) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of(&family, folder.path());
        with_tokenizer(&model, "bpe-gpt2");
        let file = quantize(&model, level, &folder.path().join("out.gguf"));
        let quantised = open(&file).unwrap_or_else(|error| panic!("{name}: {error} {:?}", error.details()));
        assert_eq!((&*quantised.format, quantised.level.as_deref()), ("gguf", Some(level)));
        let checkpoint = source::open(&model).unwrap();
        let original = model::understand(&checkpoint).unwrap().model;
        same_config(name, &quantised.model, &original);
        let names: Vec<_> = original.tensors.iter().map(|tensor| (key(tensor), tensor.name.clone())).collect();
        same_weights(name, level, &quantised, &names, &model);
        read += 1;
    }
    assert_eq!(read, 33);
}

#[test]
fn every_family_comes_back_from_32_bits() {
    every_family("F32");
}

#[test]
fn every_family_comes_back_from_16_bits() {
    every_family("BF16");
}

#[test]
fn every_family_comes_back_from_8_bits_within_a_step() {
    every_family("Q8_0");
}

/// The tokenizer of a file with this one's vocabulary.
fn rebuilt(tokenizer: &str) -> (Tokenizer, Value) {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("arch").join("llama"), folder.path());
    with_tokenizer(&model, tokenizer);
    let file = quantize(&model, "F32", &folder.path().join("out.gguf"));
    let quantised = open(&file).unwrap();
    let companion = |name: &str| &quantised.companions.iter().find(|(known, _)| known == name).unwrap().1;
    let config = serde_json::from_slice(companion("tokenizer_config.json")).unwrap();
    (Tokenizer::from_bytes(companion("tokenizer.json")).unwrap(), config)
}

fn texts() -> Vec<String> {
    let text = fs::read_to_string(fixture("text").join("hard.txt")).unwrap();
    text.lines().map(str::to_owned).chain([text.clone()]).collect()
}

#[test]
fn byte_level_tokenizers_come_back() {
    for name in ["bpe-gpt2", "bpe-llama3", "bpe-qwen2"] {
        let original = Tokenizer::from_file(fixture("tokenizers").join(name).join("tokenizer.json")).unwrap();
        let (rebuilt, config) = rebuilt(name);
        let stated: Value =
            serde_json::from_slice(&fs::read(fixture("tokenizers").join(name).join("tokenizer_config.json")).unwrap())
                .unwrap();
        assert_eq!(config.get("chat_template"), stated.get("chat_template"), "{name}");
        let special: Vec<String> =
            original.get_added_tokens_decoder().values().map(|token| format!("a {}b", token.content)).collect();
        for text in texts().into_iter().chain(special) {
            for adds in [true, false] {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(&*text, adds).unwrap().get_ids().to_vec();
                assert_eq!(ids(&rebuilt), ids(&original), "{name}: {text:?}");
                let (ids, skip) = (ids(&original), false);
                assert_eq!(rebuilt.decode(&ids, skip).unwrap(), original.decode(&ids, skip).unwrap(), "{name}");
            }
        }
    }
}

/// Against ids of the sentencepiece library, with the BOS token that Llama's class adds.
#[test]
fn a_sentencepiece_tokenizer_comes_back() {
    let (rebuilt, _) = rebuilt("spm-llama");
    let golden = fs::read(fixture("text").join("random.spm-llama.json")).unwrap();
    let golden: Vec<(String, Vec<u32>)> = serde_json::from_slice(&golden).unwrap();
    // The model has fewer rows than the vocabulary has pieces: the last are characters that it does not know.
    let rows = u32::try_from(rebuilt.get_vocab_size(true)).unwrap();
    // This vocabulary takes out spaces that are too many, which files of Llama do not tell; and names of special
    // tokens are plain text to the library.
    let spaced = |text: &str| text.contains("  ") || text.starts_with(' ') || text.ends_with(' ') || text.contains('<');
    let golden: Vec<_> =
        golden.into_iter().filter(|(text, ids)| !spaced(text) && ids.iter().all(|id| *id < rows)).collect();
    assert!(golden.len() > 20, "{}", golden.len());
    for (text, ids) in golden {
        let found = rebuilt.encode(&*text, true).unwrap();
        let (bos, found) = found.get_ids().split_first().unwrap();
        assert_eq!((*bos, found), (1, &*ids), "{text:?}");
    }
}

#[test]
fn files_that_are_cut_or_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("arch").join("llama"), folder.path());
    with_tokenizer(&model, "bpe-gpt2");
    let file = quantize(&model, "Q8_0", &folder.path().join("out.gguf"));
    let bytes = fs::read(&file).unwrap();
    let code = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        match open(&file) {
            Ok(source) => (0..)
                .zip(&source.model.tensors)
                .try_for_each(|(id, tensor)| source.rows(id, 0, tensor.rows()).map(drop)),
            Err(error) => Err(error),
        }
        .err()
        .map(|error| error.exit_code() as u8)
    };
    assert_eq!(code(&bytes), None);
    for cut in [40, bytes.len() / 3, bytes.len() / 2, bytes.len() - 64] {
        assert_eq!(code(&bytes[..cut]), Some(5), "cut at {cut}");
    }
    let lie = |name: &str, other: &str| {
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        code(&bytes)
    };
    assert_eq!(lie("blk.1.attn_q.weight", "blk.1.attn_x.weight"), Some(5));
    assert_eq!(lie("llama.embedding_length", "llama.embedding_lengtx"), Some(5));
    // A count that is another one: the number stands after the key and its type.
    let key = "llama.attention.head_count_kv";
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4;
    for count in [0, 3, 4, u32::MAX] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        assert_eq!(code(&bytes), Some(5), "{count} heads");
    }
}

#[test]
fn rows_that_are_not_there_are_refused_and_so_is_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("arch").join("llama"), folder.path());
    with_tokenizer(&model, "bpe-gpt2");
    let source = open(&quantize(&model, "F32", &folder.path().join("out.gguf"))).unwrap();
    let rows = source.model.tensors[0].rows();
    assert!(source.rows(0, rows, 1).is_err() && source.rows(0, u64::MAX, 2).is_err());
    assert!(source.rows(u32::MAX, 0, 1).is_err());
    assert!(matches!(open(&model), Err(Error::Checkpoint { .. })));
}
