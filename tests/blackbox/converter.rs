//! Our F32 files against those of llama.cpp's own converter.
//!
//! `golden/converter/` has what the converter wrote, as text. That it is the real one and how the
//! text was made stands in the README beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{RandomLlama, copy_of},
    command::Qhost,
    fixture, repository,
};
use safetensors::{Dtype, SafeTensors};
use xxhash_rust::xxh3::xxh3_64;

use crate::gguf::{Gguf, Tensor};

fn f32_file(model: &Path, output: &Path) -> Gguf {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "F32", "--no-report", "-o"]);
    let result = qhost.arg(output).arg(model).json();
    Gguf::read(&PathBuf::from(result["output_path"].as_str().unwrap()))
}

/// A line of the golden file for a tensor.
fn line(tensor: &Tensor) -> String {
    assert_eq!(tensor.kind, 0);
    let mut words = vec![format!("{} {:?} F32 {:016x}", tensor.name, tensor.dimensions, xxh3_64(&tensor.data))];
    if tensor.name == "rope_freqs.weight" {
        let factors = tensor.data.as_chunks::<4>().0.iter();
        words.extend(factors.map(|factor| format!("{:08x}", u32::from_le_bytes(*factor))));
    }
    words.join(" ")
}

/// Keys that may differ, and why.
fn is_ours(key: &str, model: &str) -> bool {
    // The converter takes the token from tokenizer.json alone, which this model has not.
    key.starts_with("tokenizer.ggml.unknown_token_id ") && model == "stories260K"
        // The quantiser moves these two to the end.
        || key.starts_with("general.quantization_version ")
        || key.starts_with("general.file_type ")
}

#[test]
fn keys_and_tensors_are_those_of_the_reference_converter() {
    for name in ["llama", "llama-headdim", "llama-rope3-tied", "mistral", "qwen2", "qwen3", "tinylm", "stories260K"] {
        let folder = tempfile::tempdir().unwrap();
        let model = match name {
            "tinylm" | "stories260K" => fixture(name),
            _ => {
                let model = copy_of(&fixture("arch").join(name), folder.path());
                fs::remove_file(model.join("golden.safetensors")).unwrap();
                for file in ["tokenizer.json", "tokenizer_config.json"] {
                    fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), model.join(file)).unwrap();
                }
                model
            }
        };
        let ours = f32_file(&model, &folder.path().join("out"));
        let golden = repository().join("tests/golden/converter").join(format!("{name}.txt"));
        let golden = fs::read_to_string(golden).unwrap();
        let (tensors, keys): (Vec<_>, Vec<_>) = golden.lines().partition(|line| line.contains("] F32 "));

        let compared =
            |keys: Vec<&str>| keys.into_iter().filter(|key| !is_ours(key, name)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(compared(ours.keys.iter().map(String::as_str).collect()), compared(keys), "{name}");
        let last: Vec<_> = ours.keys.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(last, ["general.file_type u32 0", "general.quantization_version u32 2"], "{name}");

        let mut lines: Vec<_> = ours.tensors.iter().map(line).collect();
        let mut tensors: Vec<_> = tensors.into_iter().map(str::to_owned).collect();
        // The quantiser sorts them, the converter does not.
        lines.sort();
        tensors.sort();
        assert_eq!(lines, tensors, "{name}");
    }
}

/// Keys that our files have and the converter's have not, for every family.
const MORE: [&str; 7] = [
    // The quantiser's and the tokenizer's are compared elsewhere.
    "general.",
    "tokenizer.",
    // Of families for which the converter leaves out what llama.cpp assumes by itself.
    "rope.freq_base",
    "rope.dimension_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
];

/// Keys that single families have more of, each with the reason.
fn is_more(key: &str, family: &str) -> bool {
    let key = key.split_once('.').map_or(key, |(_, key)| key);
    match family {
        // The converter asks transformers, whose config of version 5 has lost the key; without it llama.cpp
        // scores with softmax, which is wrong for V3.
        "deepseek_v2" | "deepseek_v2-plain" | "deepseek_v3" if key.starts_with("expert_gating_func ") => true,
        // It writes none where they are not to be scaled.
        "deepseek_v2" | "deepseek_v2-plain" if key.starts_with("expert_weights_norm ") => true,
        // Without it llama.cpp does not load a model of another number of layers than its own.
        "deepseek_v2-plain" if key.starts_with("attention.q_lora_rank ") => true,
        // It leaves llama.cpp to take every sixth layer, whatever the config says.
        "gemma3_text" if key.starts_with("attention.sliding_window_pattern ") => true,
        _ => false,
    }
}

/// Keys that the converter writes otherwise, each with the reason.
fn is_otherwise(key: &str, family: &str) -> bool {
    match family {
        // Four times the width, whatever the config says, and all heads as key/value heads: llama.cpp does not load
        // this model with them.
        "phi" => key.starts_with("phi2.feed_forward_length ") || key.starts_with("phi2.attention.head_count_kv "),
        // Four times the width, too.
        "gpt2" => key.starts_with("gpt2.feed_forward_length "),
        // Of one group, which is no grouping.
        "deepseek_v2" | "deepseek_v2-plain" => key.starts_with("deepseek2.expert_group_"),
        _ => false,
    }
}

/// A key's name within its architecture.
fn within(key: &str) -> &str {
    key.split_once('.').map_or(key, |(_, key)| key)
}

#[test]
fn every_family_has_the_converter_s_tensors_and_keys() {
    let folder = repository().join("tests/golden/converter/families");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 20);
    let mut wrong = Vec::new();
    for golden in names {
        let name = golden.file_stem().unwrap().to_str().unwrap().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of(&fixture("arch").join(&name), folder.path());
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), model.join(file)).unwrap();
        }
        let ours = f32_file(&model, &folder.path().join("out"));
        let golden = fs::read_to_string(golden).unwrap();
        let (tensors, keys): (Vec<_>, Vec<_>) = golden.lines().partition(|line| line.contains("] F32 "));
        let mut lines: Vec<_> = ours.tensors.iter().map(line).collect();
        // A dimension of 1 at the outer end is dropped by the quantiser.
        let mut tensors: Vec<_> = tensors.into_iter().map(|line| line.replace(", 1] ", "] ")).collect();
        lines.sort();
        tensors.sort();
        wrong.extend(lines.iter().filter(|line| !tensors.contains(line)).map(|line| format!("{name}: ours {line}")));
        wrong.extend(tensors.iter().filter(|line| !lines.contains(line)).map(|line| format!("{name}: theirs {line}")));
        for key in keys.iter().filter(|key| !key.starts_with("general.")) {
            if !ours.keys.iter().any(|ours| ours == key) && !is_otherwise(key, &name) {
                wrong.push(format!("{name}: theirs {key}"));
            }
        }
        for key in &ours.keys {
            let more = MORE.iter().any(|more| key.starts_with(more) || within(key).starts_with(more));
            if !keys.contains(&key.as_str()) && !more && !is_more(key, &name) && !is_otherwise(key, &name) {
                wrong.push(format!("{name}: ours {key}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_model_card_describes_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("stories260K"), folder.path());
    let card = "---\nlicense: mit\nbase_model: karpathy/tinyllamas\ntags: [stories]\n---\nNot read.\n";
    fs::write(model.join("README.md"), card).unwrap();
    // Only the card that lies beside the model is its card.
    fs::create_dir(model.join("additional_chat_templates")).unwrap();
    fs::write(model.join("additional_chat_templates/README.md"), "---\nlicense: other\n---\n").unwrap();
    let keys = f32_file(&model, &folder.path().join("out")).keys;
    let general: Vec<_> = keys.iter().filter(|key| key.starts_with("general.")).map(String::as_str).collect();
    assert_eq!(
        general[2..9],
        [
            r#"general.name string "stories260K""#,
            r#"general.size_label string "260K""#,
            r#"general.license string "mit""#,
            "general.base_model.count u32 1",
            r#"general.base_model.0.name string "Tinyllamas""#,
            r#"general.base_model.0.organization string "Karpathy""#,
            r#"general.base_model.0.repo_url string "https://huggingface.co/karpathy/tinyllamas""#,
        ]
    );
    assert!(general[9].starts_with("general.tags [string] 1 "), "{}", general[9]);
}

/// The rows of every head's two halves take turns, wherever the work was cut: within heads of 128
/// rows, between several heads of 64, and askew through heads of 80.
#[test]
fn query_and_key_rows_are_interleaved_whatever_their_number() {
    let folder = tempfile::tempdir().unwrap();
    for (hidden, heads, kv_heads) in [(2048, 16, 4), (1024, 16, 8), (1280, 16, 16)] {
        let llama =
            RandomLlama { hidden, heads, kv_heads, ffn: 32, layers: 1, dtype: Dtype::F32, ..RandomLlama::default() };
        let model = folder.path().join(format!("m{hidden}"));
        llama.write(&model);
        let file = f32_file(&model, folder.path());
        let bytes = fs::read(model.join("model.safetensors")).unwrap();
        let source = SafeTensors::deserialize(&bytes).unwrap();
        for (name, ours, heads) in [("q", "attn_q", heads), ("k", "attn_k", kv_heads)] {
            let weights = source.tensor(&format!("model.layers.0.self_attn.{name}_proj.weight")).unwrap();
            let rows: Vec<_> = weights.data().chunks(4 * hidden).collect();
            let half = rows.len() / heads / 2;
            // numpy: w.reshape(heads, 2, half, hidden).swapaxes(1, 2)
            let mut expected: Vec<u8> = Vec::new();
            for head in 0..heads {
                for row in 0..half {
                    for part in 0..2 {
                        expected.extend(rows[(head * 2 + part) * half + row]);
                    }
                }
            }
            let tensor = file.tensor(&format!("blk.0.{ours}.weight"));
            assert_eq!(tensor.dimensions, [hidden, rows.len()]);
            assert!(tensor.data == expected, "{name} of {hidden} with {heads} heads");
        }
    }
}
