//! `qhost inspect`: what it tells of files, ours and others', whole and damaged.

use std::{fs, path::Path};

use qhost_tests::{
    checkpoint::{RandomLlama, copy_of, write_json},
    command::Qhost,
    fixture,
};
use serde_json::{Value, json};

use crate::gguf::Gguf;

pub(crate) fn quantize(model: &Path, level: &str, output: &Path) -> std::path::PathBuf {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--force", "--level", level, "-o"]);
    qhost.arg(output).arg(model).json()["output_path"].as_str().unwrap().into()
}

fn inspect(path: &Path) -> Value {
    Qhost::new(["inspect"]).arg(path).json()
}

/// A GGUF file, written from the specification alone: keys with a tag and bytes, then F32 tensors of 32.
pub(crate) fn gguf_file(version: u32, keys: &[(&str, u32, &[u8])], tensors: &[&str]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [b"GGUF".as_slice(), &version.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, tag, value) in keys {
        bytes.extend([string(key), tag.to_le_bytes().to_vec(), value.to_vec()].concat());
    }
    for (index, name) in (0_u64..).zip(tensors) {
        bytes.extend([string(name), 1_u32.to_le_bytes().to_vec(), 32_u64.to_le_bytes().to_vec()].concat());
        bytes.extend([&0_u32.to_le_bytes()[..], &(index * 128).to_le_bytes()].concat());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + 128 * tensors.len(), 0);
    bytes
}

#[test]
fn a_file_of_ours_is_told_as_an_independent_reader_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = quantize(&fixture("tinylm"), "Q4_K_M", folder.path());
    let (told, read) = (inspect(&path), Gguf::read(&path));
    assert_eq!((told["format"].as_str(), told["level"].as_str()), (Some("gguf"), Some("Q4_K_M")));
    assert_eq!((told["architecture"].as_str(), told["family"].as_str()), (Some("llama"), Some("llama")));
    assert_eq!(told["file_size"], fs::metadata(&path).unwrap().len());
    let tensors = told["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), read.tensors.len());
    for (told, read) in tensors.iter().zip(&read.tensors) {
        let dimensions: Vec<_> = read.dimensions.iter().rev().collect();
        assert_eq!((told["name"].as_str(), &told["shape"]), (Some(&*read.name), &json!(dimensions)));
        let kind = match told["encoding"].as_str().unwrap() {
            "F32" => 0,
            "Q4_K" => 12,
            "Q6_K" => 14,
            other => unreachable!("{other} is no type of this level"),
        };
        assert_eq!(kind, read.kind, "{told}");
        assert!(told["role"].is_string(), "{told}");
    }
    let metadata = told["metadata"].as_array().unwrap();
    let keys: Vec<_> = metadata.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    let read: Vec<_> = read.keys.iter().map(|key| key.split(' ').next().unwrap()).collect();
    assert_eq!(keys, read);
    let parameters = told["parameter_count"].as_u64().unwrap();
    assert_eq!(parameters, 5_245_184);
    let encodings = told["encodings"].as_array().unwrap();
    let sum = |key: &str| encodings.iter().map(|sum| sum[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("elements"), sum("bytes")), (parameters, told["tensor_bytes"].as_u64().unwrap()));
}

#[test]
fn long_lists_are_cut_unless_all_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = quantize(&fixture("stories260K"), "Q8_0", folder.path());
    let tokens = |document: &Value| {
        let metadata = document["metadata"].as_array().unwrap();
        metadata.iter().find(|entry| entry["key"] == "tokenizer.ggml.tokens").unwrap().clone()
    };
    let cut = tokens(&inspect(&path));
    assert_eq!((&cut["length"], &cut["truncated"]), (&json!(512), &json!(true)));
    assert!(cut["value"].as_array().unwrap().len() < 100, "{cut}");
    let whole = tokens(&Qhost::new(["inspect", "--full"]).arg(&path).json());
    assert_eq!((whole["value"].as_array().unwrap().len(), &whole["truncated"]), (512, &json!(false)));
}

#[test]
fn people_see_it_within_eighty_columns_and_like_tensors_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = quantize(&fixture("tinylm"), "Q4_K_M", folder.path());
    for path in [&path, &fixture("tinylm")] {
        let text = Qhost::new(["inspect"]).arg(path).succeed().stdout;
        // The first line is the path.
        let widest = text.lines().skip(1).map(|line| line.chars().count()).max();
        assert!(widest.unwrap() <= 80, "{text}");
        assert!(text.contains("(4×)"), "{text}");
    }
    let full = Qhost::new(["inspect", "--full"]).arg(&path).succeed().stdout;
    assert!(full.contains("blk.3.attn_q.weight") && !full.contains("(4×)"), "{full}");
}

#[test]
fn checkpoints_are_told_with_roles_where_the_family_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    RandomLlama { shards: 3, ..RandomLlama::default() }.write(&model);
    let told = inspect(&model);
    assert_eq!((told["format"].as_str(), told["family"].as_str()), (Some("safetensors"), Some("llama")));
    assert_eq!(told["files"].as_array().unwrap().len(), 3);
    let tensors = told["tensors"].as_array().unwrap();
    let q = tensors.iter().find(|tensor| tensor["name"] == "model.layers.2.self_attn.q_proj.weight").unwrap();
    assert_eq!((q["role"].as_str(), &q["layer"], q["encoding"].as_str()), (Some("attn_q"), &json!(2), Some("BF16")));
    assert!(told["companions"].as_array().unwrap().iter().any(|file| file["name"] == "tokenizer.model"));

    // One of its files alone.
    let one = inspect(&model.join("model-00002-of-00003.safetensors"));
    assert!(one["tensors"].as_array().unwrap().len() < tensors.len());
    assert_eq!(one["architecture"], Value::Null);
}

#[test]
fn an_architecture_that_is_not_known_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("stories260K"), folder.path());
    let config = json!({"model_type": "perceiver", "architectures": ["PerceiverModel"],
        "quantization_config": {"quant_method": "someq", "bits": 4, "group_size": 128}});
    write_json(&model.join("config.json"), &config);
    let told = inspect(&model);
    assert_eq!((told["architecture"].as_str(), &told["family"]), (Some("PerceiverModel"), &Value::Null));
    assert!(told["not_understood"].as_str().unwrap().contains("perceiver"), "{told}");
    assert_eq!(told["quantization_config"]["bits"], 4);
    assert_eq!(told["parameter_count"], Value::Null, "packed elements are no weights");
    let text = Qhost::new(["inspect"]).arg(&model).succeed().stdout;
    assert!(text.contains("someq: bits 4, group_size 128"), "{text}");
    fs::remove_file(model.join("config.json")).unwrap();
    assert!(inspect(&model)["warnings"][0].as_str().unwrap().contains("config.json"));
}

#[test]
fn the_parts_of_a_split_file_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let part = |no: u16, tensors: &[&str]| {
        let architecture = [&5_u64.to_le_bytes()[..], b"llama"].concat();
        let mut keys: Vec<(&str, u32, &[u8])> = Vec::new();
        if no == 0 {
            keys.push(("general.architecture", 8, &architecture));
        }
        let (number, count, all) = (no.to_le_bytes(), 3_u16.to_le_bytes(), 3_i32.to_le_bytes());
        keys.extend([("split.no", 2, &number[..]), ("split.count", 2, &count), ("split.tensors.count", 5, &all)]);
        let path = folder.path().join(format!("m-{:05}-of-00003.gguf", no + 1));
        fs::write(&path, gguf_file(3, &keys, tensors)).unwrap();
        path
    };
    let (_, second, third) = (part(0, &["a"]), part(1, &["b"]), part(2, &["c"]));
    for path in [&second, &third, &folder.path().to_owned()] {
        let told = inspect(path);
        assert_eq!((told["files"].as_array().unwrap().len(), told["architecture"].as_str()), (3, Some("llama")));
        let names: Vec<_> = told["tensors"].as_array().unwrap().iter().map(|tensor| &tensor["name"]).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(told["warnings"], json!([]));
    }
    fs::remove_file(&second).unwrap();
    let told = inspect(&third);
    assert!(told["warnings"][0].as_str().unwrap().contains("2 of 3 parts"), "{told}");
    let found = Qhost::new(["verify"]).arg(&third).fail_with(8);
    assert!(found["message"].as_str().unwrap().contains("missing: 2"), "{found}");
}

#[test]
fn version_two_is_read_and_others_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let write = |version: u32| fs::write(&path, gguf_file(version, &[], &["a"])).unwrap();
    write(2);
    assert_eq!(inspect(&path)["format_version"], "2");
    for (version, words) in [(1, "version 1"), (4, "version 4"), (3_u32.swap_bytes(), "big-endian")] {
        write(version);
        let error = Qhost::new(["inspect"]).arg(&path).fail_with(4);
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[test]
fn what_cannot_be_told_is_an_error_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let fails = |path: &Path, code: i32, words: &str| {
        let error = Qhost::new(["inspect"]).arg(path).fail_with(code);
        assert!(error.to_string().contains(words), "{words}: {error}");
    };
    fails(&folder.path().join("nothing"), 3, "does not exist");
    fails(folder.path(), 4, "no file that can be read");
    fails(&file("notes.txt", b"words"), 4, "in no format");
    fails(&file("empty.gguf", b""), 5, "empty.gguf");
    fails(&file("other.gguf", b"not at all"), 5, "does not start with GGUF");
    fails(folder.path(), 2, "the weights of 2 models");
    let whole = gguf_file(3, &[], &["a", "b"]);
    // The name does not matter where the first bytes tell.
    assert_eq!(inspect(&file("named.bin", &whole))["tensors"].as_array().unwrap().len(), 2);
    fails(&file("cut.gguf", &whole[..whole.len() - 1]), 5, "a part of the file is missing");
    for length in [3, 4, 7, 8, 20, 24, 40, 60] {
        let error = Qhost::new(["inspect"]).arg(file("cut.gguf", &whole[..length])).fail_with(5);
        assert!(error["message"].as_str().unwrap().contains("cut.gguf"), "{error}");
    }
    fails(&file("cut.safetensors", &[9; 20]), 5, "cut.safetensors");
}
