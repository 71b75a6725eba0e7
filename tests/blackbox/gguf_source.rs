//! GGUF files as a source: what they tell of a checkpoint's small files, and what is refused by the name of a tensor.

use std::{fs, path::Path};

use qhost::exit_code::Fault;
use qhost_tests::{checkpoint::copy_of, command::Qhost, fixture};
use serde_json::{Value, json};

use crate::{inspect::quantize, quantised::open};

/// A random checkpoint of a family with a tokenizer, in a folder.
fn checkpoint(family: &str, tokenizer: &str, folder: &Path) -> std::path::PathBuf {
    let model = copy_of(&fixture("arch").join(family), folder);
    let _ = fs::remove_file(model.join("golden.safetensors"));
    for entry in fs::read_dir(fixture("tokenizers").join(tokenizer)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    model
}

fn companion(file: &Path, name: &str) -> Option<Value> {
    let source = open(file).unwrap();
    let found = source.companions.iter().find(|(known, _)| known == name)?;
    Some(serde_json::from_slice(&found.1).unwrap())
}

/// Of every tensor its type, its place and its length.
fn tensors(file: &Path) -> Vec<Value> {
    let told = Qhost::new(["inspect", "--full"]).arg(file).json();
    told["tensors"].as_array().unwrap().clone()
}

#[test]
fn a_bad_scale_is_refused_by_the_name_of_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint("llama", "bpe-gpt2", folder.path());
    for level in ["Q8_0", "BF16", "F32"] {
        let file = quantize(&model, level, &folder.path().join(level));
        let bytes = fs::read(&file).unwrap();
        for tensor in tensors(&file).into_iter().step_by(5) {
            let (name, start) = (tensor["name"].as_str().unwrap(), tensor["offset"].as_u64().unwrap());
            let encoding = tensor["encoding"].as_str().unwrap();
            // An infinite scale of Q8_0, or an infinite weight.
            let (at, bad): (u64, &[u8]) = match encoding {
                "Q8_0" => (34, &[0x00, 0x7c]),
                "BF16" => (6, &[0x80, 0x7f]),
                "F32" => (12, &[0x00, 0x00, 0x80, 0xff]),
                other => panic!("{other}"),
            };
            let mut bytes = bytes.clone();
            let at = usize::try_from(start + at).unwrap();
            bytes[at..at + bad.len()].copy_from_slice(bad);
            fs::write(&file, &bytes).unwrap();
            let source = open(&file).unwrap();
            let failures: Vec<_> = (0..)
                .zip(&source.model.tensors)
                .filter_map(|(id, tensor)| source.rows(id, 0, tensor.rows()).err())
                .collect();
            let [failure] = failures.as_slice() else { panic!("{level} {name}: {failures:?}") };
            assert_eq!(failure.exit_code() as u8, 5, "{level} {name}");
            assert!(failure.to_string().contains(name), "{level} {name}: {failure}");
        }
    }
}

#[test]
fn an_unknown_type_is_refused_by_the_name_of_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint("llama", "bpe-gpt2", folder.path());
    let file = quantize(&model, "F32", &folder.path().join("out.gguf"));
    let bytes = fs::read(&file).unwrap();
    let name = "blk.1.ffn_up.weight";
    // The name, two dimensions, and then the type.
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() + name.len() + 4 + 16;
    // A number that nobody has, one that left the format, and one that holds no weights.
    for (number, code) in [(97_u32, 5), (31, 4), (26, 4)] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        let error = open(&file).err().unwrap_or_else(|| panic!("type {number} is read"));
        assert_eq!(error.exit_code() as u8, code, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// A class of transformers has ids, a rotation and windows of its own where a config is silent.
#[test]
fn nothing_is_left_to_the_defaults_of_classes() {
    let folder = tempfile::tempdir().unwrap();
    for (family, key, expected) in [
        ("glm4", "pad_token_id", Value::Null),
        ("phi3", "pad_token_id", Value::Null),
        ("gemma", "bos_token_id", json!(0)),
        ("llama", "eos_token_id", json!(1)),
        ("llama", "rope_theta", json!(10000.0)),
        (
            "llama-rope3-tied",
            "rope_scaling",
            json!({
                "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }),
        ),
        ("gpt_neox", "rotary_pct", json!(0.5)),
        ("gpt_neox", "rotary_emb_base", json!(10000.0)),
        ("gemma3_text", "rope_local_base_freq", json!(10000.0)),
        ("exaone4-full", "layer_types", json!(vec!["full_attention"; 3])),
    ] {
        let model = checkpoint(family, "bpe-gpt2", &folder.path().join(format!("{family}-{key}")));
        let file = quantize(&model, "BF16", &folder.path().join(format!("{family}-{key}.gguf")));
        let config = companion(&file, "config.json").unwrap();
        assert_eq!(config.get(key), Some(&expected), "{family}");
    }
}

#[test]
fn what_ends_an_answer_and_how_it_is_sampled_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint("llama", "bpe-gpt2", folder.path());
    let generation = json!({"eos_token_id": [1, 5], "temperature": 0.6, "top_p": 0.9, "do_sample": true});
    fs::write(model.join("generation_config.json"), generation.to_string()).unwrap();
    let file = quantize(&model, "BF16", &folder.path().join("out.gguf"));
    let told = companion(&file, "generation_config.json").unwrap();
    for (key, expected) in generation.as_object().unwrap() {
        assert_eq!(told.get(key), Some(expected), "{told}");
    }
}

/// The keys of a file.
fn keys(file: &Path) -> Vec<Value> {
    let told = Qhost::new(["inspect", "--full"]).arg(file).json();
    told["metadata"].as_array().unwrap().clone()
}

/// What is remade from a file alone is the same file, byte for byte.
#[test]
fn a_file_that_is_remade_is_the_same_file() {
    for (family, tokenizer) in [
        ("llama", "bpe-gpt2"),
        ("llama-rope3-tied", "bpe-llama3"),
        ("qwen2-yarn", "bpe-qwen2"),
        ("deepseek_v3", "bpe-qwen2"),
        ("phi3-longrope", "bpe-gpt2"),
        ("gpt_oss", "bpe-qwen2"),
        ("gpt2", "bpe-gpt2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (first, again) = remade(family, tokenizer, folder.path());
        assert_eq!(keys(&first), keys(&again), "{family} {tokenizer}");
        assert!(fs::read(first).unwrap() == fs::read(again).unwrap(), "{family} {tokenizer}");
    }
}

/// A `tokenizer.json` has the order of merges in place of scores, so the new scores are the order; and it says of more
/// tokens that they are not added.
#[test]
fn a_sentencepiece_vocabulary_that_is_remade_has_scores_of_its_own() {
    for (family, tokenizer) in [("gemma3_text", "spm-llama"), ("mixtral", "spm-llama")] {
        let folder = tempfile::tempdir().unwrap();
        let (first, again) = remade(family, tokenizer, folder.path());
        let told = |file: &Path| {
            let mut keys = keys(file);
            keys.retain(|entry| {
                !["tokenizer.ggml.scores", "tokenizer.ggml.add_sep_token"].contains(&entry["key"].as_str().unwrap())
            });
            keys
        };
        assert_eq!(told(&first), told(&again), "{family} {tokenizer}");
    }
}

/// A file of a checkpoint, and what is made of that file.
fn remade(family: &str, tokenizer: &str, folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let first = quantize(&checkpoint(family, tokenizer, folder), "F32", &folder.join("first.gguf"));
    let qhost = Qhost::new(["convert", "--format", "gguf", "--level", "F32", "--yes", "-o"]);
    let again = qhost.arg(folder.join("again.gguf")).arg(&first).json();
    (first, again["output_path"].as_str().unwrap().into())
}
