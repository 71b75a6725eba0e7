//! Checkpoints that are absent, damaged or lie: each ends with its exit code, words that name the place,
//! a hint, and nothing under the final name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{RandomLlama, copy_of, write_json},
    command::Qhost,
    fixture,
};
use serde_json::{Value, json};

/// A folder with a copy of a small model to be spoilt, and an empty one for the output.
struct Case {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of(&fixture("stories260K"), folder.path());
        fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder, model }
    }

    fn sharded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        RandomLlama { shards: 3, ..RandomLlama::default() }.write(&model);
        fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder, model }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Runs and fails with this code, with words that hold all of these.
    fn fails(&self, code: i32, words: &[&str]) -> Value {
        self.fails_at(&self.model, code, words)
    }

    fn fails_at(&self, model: &Path, code: i32, words: &[&str]) -> Value {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_0", "-o"]).arg(self.output());
        let error = qhost.arg(model).fail_with(code);
        let message = error["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {error}");
        }
        assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "no hint: {error}");
        let left: Vec<_> = fs::read_dir(self.output()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_str().unwrap().ends_with(".partial")), "{left:?}");
        error
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.model.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        write_json(&path, &config);
    }

    fn weights(&self) -> PathBuf {
        self.model.join("model.safetensors")
    }

    /// Changes the header of the weights, with everything else as it is.
    fn header(&self, change: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.weights()).unwrap();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend(header.as_bytes());
        changed.extend(&bytes[8 + length..]);
        fs::write(self.weights(), changed).unwrap();
    }
}

#[test]
fn a_path_that_is_not_there() {
    let case = Case::new();
    case.fails_at(Path::new("/no/such/model"), 3, &["/no/such/model"]);
    let error = case.fails_at(Path::new("no-such-org/no-such-model"), 3, &["no-such-org/no-such-model"]);
    assert!(error["hint"].as_str().unwrap().contains("HF_HUB_OFFLINE"), "{error}");
    case.fails_at(&case.weights(), 4, &["model.safetensors"]);
}

#[test]
fn a_folder_without_config_or_weights() {
    let case = Case::new();
    fs::remove_file(case.model.join("config.json")).unwrap();
    case.fails(5, &["config.json"]);
    let case = Case::new();
    fs::remove_file(case.weights()).unwrap();
    case.fails(5, &["safetensors"]);
    fs::write(case.model.join("pytorch_model.bin"), "pickle").unwrap();
    let error = case.fails(4, &["safetensors"]);
    assert!(error["hint"].as_str().unwrap().contains("pytorch_model.bin"), "{error}");
}

#[test]
fn a_config_that_is_not_json_or_not_a_config() {
    for (text, word) in
        [("{\"hidden_size\": 64,", "config.json"), ("[]", "object"), ("", "config.json"), ("null", "object")]
    {
        let case = Case::new();
        fs::write(case.model.join("config.json"), text).unwrap();
        case.fails(5, &["config.json", word]);
    }
    let case = Case::new();
    // Deep enough to overflow a stack that is not guarded.
    fs::write(case.model.join("config.json"), "[".repeat(1 << 20)).unwrap();
    case.fails(5, &["config.json"]);
}

#[test]
fn config_keys_that_are_absent_or_impossible() {
    let keys =
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "rms_norm_eps"];
    for key in keys {
        for value in [None, Some(json!(0)), Some(json!("many")), Some(json!(-3))] {
            let case = Case::new();
            case.config(|config| match value {
                None => drop(config.as_object_mut().unwrap().remove(key)),
                Some(value) => config[key] = value,
            });
            case.fails(5, &[key]);
        }
    }
}

#[test]
fn an_architecture_that_nobody_knows() {
    let case = Case::new();
    case.config(|config| {
        config["model_type"] = json!("hyperllama");
        config["architectures"] = json!(["HyperLlamaForCausalLM"]);
    });
    let error = case.fails(4, &["hyperllama", "HyperLlamaForCausalLM"]);
    assert!(error["hint"].as_str().unwrap().contains("llama, mistral, mixtral, qwen2"), "{error}");
    let case = Case::new();
    case.config(|config| config["quantization_config"] = json!({"quant_method": "bitsandbytes"}));
    case.fails(4, &["bitsandbytes"]);
    let case = Case::new();
    case.config(|config| config["rope_scaling"] = json!({"rope_type": "longrope", "factor": 4.0}));
    case.fails(4, &["longrope"]);
    let case = Case::new();
    case.config(|config| config["hidden_act"] = json!("relu"));
    case.fails(4, &["relu"]);
}

#[test]
fn shapes_that_contradict_the_config() {
    for (key, value, tensor) in [
        ("intermediate_size", 176, "mlp.gate_proj.weight"),
        ("num_key_value_heads", 8, "self_attn.k_proj.weight"),
        ("vocab_size", 500, "embed_tokens.weight"),
        ("hidden_size", 128, "embed_tokens.weight"),
    ] {
        let case = Case::new();
        case.config(|config| config[key] = json!(value));
        case.fails(5, &[tensor]);
    }
}

#[test]
fn tensors_that_are_absent_or_unknown() {
    let case = Case::new();
    case.config(|config| config["num_hidden_layers"] = json!(6));
    case.fails(5, &["model.layers.5.input_layernorm.weight"]);
    let case = Case::new();
    case.config(|config| config["num_hidden_layers"] = json!(4));
    case.fails(4, &["model.layers.4."]);
    let case = Case::new();
    case.config(|config| config["tie_word_embeddings"] = json!(false));
    case.fails(5, &["lm_head.weight"]);
    let case = Case::new();
    case.header(|header| {
        let tensor = header.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
        header["model.norm.extra"] = tensor;
    });
    case.fails(5, &["model.norm.weight"]);
}

#[test]
fn weights_that_are_cut_at_any_place() {
    let whole = fs::read(fixture("stories260K").join("model.safetensors")).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    for length in [0, 1, 7, 8, 9, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        let case = Case::new();
        fs::write(case.weights(), &whole[..length]).unwrap();
        case.fails(5, &["model.safetensors"]);
    }
    let case = Case::new();
    let mut longer = whole;
    longer.extend([0; 64]);
    fs::write(case.weights(), longer).unwrap();
    case.fails(5, &["model.safetensors"]);
}

#[test]
fn headers_that_lie() {
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie); 8] = [
        ("offsets beyond the file", |header| header["model.norm.weight"]["data_offsets"] = json!([0, 1_u64 << 40])),
        ("offsets backwards", |header| header["model.norm.weight"]["data_offsets"] = json!([256, 0])),
        ("a shape that does not fit", |header| header["model.norm.weight"]["shape"] = json!([65])),
        ("a shape that overflows", |header| header["model.norm.weight"]["shape"] = json!([1_u64 << 63, 4])),
        ("an unknown dtype", |header| header["model.norm.weight"]["dtype"] = json!("F12")),
        ("another dtype", |header| header["model.norm.weight"]["dtype"] = json!("F16")),
        ("a negative offset", |header| header["model.norm.weight"]["data_offsets"] = json!([-4, 252])),
        ("no offsets", |header| drop(header["model.norm.weight"].as_object_mut().unwrap().remove("data_offsets"))),
    ];
    for (what, lie) in lies {
        let case = Case::new();
        case.header(lie);
        let error = case.fails(5, &["model.safetensors"]);
        assert!(error["message"].as_str().unwrap().contains("header"), "{what}: {error}");
    }
    for length in [0_u64, 1, 100_000_001, 1 << 62, u64::MAX] {
        let case = Case::new();
        let mut bytes = fs::read(case.weights()).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(case.weights(), bytes).unwrap();
        case.fails(5, &["model.safetensors"]);
    }
    let case = Case::new();
    case.header(|header| {
        header["model.norm.weight"] = json!({"dtype": "I32", "shape": [64], "data_offsets": [0, 256]});
    });
    case.fails(5, &["model.safetensors"]);
}

#[test]
fn integer_weights_are_not_taken_for_floats() {
    let case = Case::new();
    case.header(|header| header["model.norm.weight"]["dtype"] = json!("I32"));
    case.fails(4, &["model.norm.weight", "I32"]);
}

#[test]
fn indexes_that_do_not_fit_their_shards() {
    let shard = "model-00002-of-00003.safetensors";
    let change = |case: &Case, change: &dyn Fn(&mut Value)| {
        let path = case.model.join("model.safetensors.index.json");
        let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        write_json(&path, &index);
    };
    let case = Case::sharded();
    fs::remove_file(case.model.join(shard)).unwrap();
    case.fails(5, &[shard]);
    let case = Case::sharded();
    let bytes = fs::read(case.model.join(shard)).unwrap();
    fs::write(case.model.join(shard), &bytes[..bytes.len() - 100]).unwrap();
    case.fails(5, &[shard]);
    let case = Case::sharded();
    change(&case, &|index| index["weight_map"]["model.norm.weight"] = json!("model-00001-of-00003.safetensors"));
    case.fails(5, &["model.norm.weight", "model-00001-of-00003.safetensors"]);
    let case = Case::sharded();
    change(&case, &|index| index["weight_map"]["model.norm.weight"] = json!("../../../etc/passwd"));
    case.fails(5, &["index.json"]);
    let case = Case::sharded();
    change(&case, &|index| *index = json!({"metadata": {}}));
    case.fails(5, &["index.json"]);
    let case = Case::sharded();
    fs::copy(case.model.join("model-00001-of-00003.safetensors"), case.model.join(shard)).unwrap();
    case.fails(5, &["is in both"]);
}

/// transformers takes the single file, too.
#[test]
fn a_single_file_beside_shards_is_the_one_that_is_read() {
    let case = Case::sharded();
    let other = RandomLlama { seed: 7, ..RandomLlama::default() };
    let alone = case.folder.path().join("alone");
    other.write(&alone);
    fs::copy(alone.join("model.safetensors"), case.weights()).unwrap();
    let made = |model: &Path| {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "--force", "-o"]);
        let result = qhost.arg(case.output()).arg(model).json();
        (fs::read(result["output_path"].as_str().unwrap()).unwrap(), result)
    };
    let (bytes, result) = made(&case.model);
    assert!(result["warnings"].to_string().contains("model.safetensors is read"), "{result}");
    fs::remove_dir_all(&case.model).unwrap();
    fs::rename(&alone, &case.model).unwrap();
    assert!(bytes == made(&case.model).0);
}

#[test]
fn weights_under_another_name_are_told_of() {
    let case = Case::new();
    fs::rename(case.weights(), case.model.join("model-00001-of-00002.safetensors")).unwrap();
    let error = case.fails(5, &["model.safetensors.index.json"]);
    assert!(error["hint"].as_str().unwrap().contains("model-00001-of-00002.safetensors"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_named_and_nothing_is_finished() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let case = Case::new();
        let bytes = fs::read(case.weights()).unwrap();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let start = header["model.layers.3.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap();
        let mut spoilt = bytes.clone();
        // Row 5, column 7 of rows of 64.
        let at = 8 + length + usize::try_from(start).unwrap() + (5 * 64 + 7) * 4;
        spoilt[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        fs::write(case.weights(), &spoilt).unwrap();
        let place = ["model.layers.3.mlp.up_proj.weight", "row 5, column 7"];
        case.fails(5, &place);
        // Mended, the same command goes on or begins anew, and gives the file that it would have given.
        fs::write(case.weights(), &bytes).unwrap();
        let qhost = || Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_0", "-o"]);
        let mended = qhost().arg(case.output()).arg(&case.model).json();
        let plain = qhost().arg(case.folder.path()).arg(&case.model).json();
        let read = |result: &Value| fs::read(result["output_path"].as_str().unwrap()).unwrap();
        assert_eq!(read(&mended), read(&plain));
    }
}

#[test]
fn an_output_inside_the_model_s_folder() {
    let case = Case::new();
    for output in [case.model.clone(), case.model.join("below"), case.model.join("..").join("stories260K")] {
        let error = Qhost::new(["quantize", "--format", "gguf", "-o"]).arg(output).arg(&case.model).fail_with(2);
        assert!(error["message"].as_str().unwrap().contains("inside the model"), "{error}");
    }
    fs::create_dir(case.folder.path().join("elsewhere")).unwrap();
    let around = case.folder.path().join("elsewhere/new/../../stories260K");
    let error = Qhost::new(["quantize", "--format", "gguf", "-o"]).arg(around).arg(&case.model).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("inside the model"), "{error}");
    let here = Qhost::new(["quantize", ".", "--format", "gguf"]).in_folder(&case.model).fail_with(2);
    assert!(here["hint"].as_str().unwrap().contains("-o"), "{here}");
    let mut names: Vec<_> = fs::read_dir(&case.model).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"]);
}

/// `/proc` is a folder in which nobody can make files, the superuser included.
#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written() {
    let qhost = |output: &Path| {
        Qhost::new(["quantize", "--format", "gguf", "-o"]).arg(output).arg(fixture("stories260K")).fail_with(6)
    };
    let error = qhost(Path::new("/proc"));
    assert!(error["message"].as_str().unwrap().contains("/proc"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "I am a file").unwrap();
    let error = qhost(&file);
    assert!(error["message"].as_str().unwrap().contains("file"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"I am a file");
}

/// A header may promise weights that only a hole in the file holds: the plan sees that their output
/// cannot fit long before anything is read.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_too_small_is_seen_in_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    let huge = RandomLlama {
        hidden: 1 << 14,
        ffn: 1 << 16,
        layers: 2000,
        heads: 128,
        kv_heads: 128,
        ..RandomLlama::default()
    };
    let mut config = huge.config();
    config["num_hidden_layers"] = json!(400);
    write_json(&model.join("config.json"), &config);
    for name in ["tokenizer.model", "tokenizer_config.json"] {
        fs::copy(fixture("stories260K").join(name), model.join(name)).unwrap();
    }
    let mut header = serde_json::Map::new();
    let mut offset = 0_u64;
    for (name, shape) in (RandomLlama { layers: 400, ..huge }).tensors() {
        let end = offset + shape.iter().map(|dimension| *dimension as u64).product::<u64>() * 2;
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let weights = fs::File::create(model.join("model.safetensors")).unwrap();
    std::io::Write::write_all(&mut &weights, &bytes).unwrap();
    if weights.set_len(bytes.len() as u64 + offset).is_err() {
        // This disk has no files of three terabytes; another one will.
        return;
    }
    let error = Qhost::new(["quantize", "--format", "gguf", "--level", "F32", "-o"])
        .arg(folder.path())
        .arg(&model)
        .fail_with(6);
    assert!(error["message"].as_str().unwrap().contains("free"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the model");
}

/// A limit on the size of files stands for a full disk: the system refuses to set the room aside.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_refuses_ends_the_run_and_keeps_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let qhost = qhost_tests::command::dist().join("qhost");
    let script = "ulimit -f 100; trap '' XFSZ; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(qhost)
        .args(["quantize", "--format", "gguf", "--level", "Q8_0", "--json", "-o"])
        .arg(folder.path())
        .arg(fixture("stories260K"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["hint"].as_str().unwrap().contains("space"), "{error}");
    assert!(!folder.path().join("stories260K-Q8_0.gguf").exists());
}

#[test]
fn tokenizers_that_are_absent_or_damaged() {
    let case = Case::new();
    fs::remove_file(case.model.join("tokenizer.model")).unwrap();
    case.fails(5, &["tokenizer"]);
    for bytes in [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"not a protobuf at all"] {
        let case = Case::new();
        fs::write(case.model.join("tokenizer.model"), bytes).unwrap();
        case.fails(5, &["tokenizer.model"]);
    }
    let case = Case::new();
    fs::write(case.model.join("tokenizer_config.json"), "{").unwrap();
    case.fails(5, &["tokenizer_config.json"]);
}
