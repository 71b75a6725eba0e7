//! Folders of packed linears that `GPTQModel` and `AutoRound` made: what comes out of them is what their own readers say,
//! and whatever is wrong with one is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::f16;
use qhost_tests::{
    checkpoint::{copy_of, write_json},
    command::Qhost,
    fixture,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::quantised;

/// Every variant whose weights are told, and the level that it has.
const VARIANTS: [(&str, Option<&str>); 12] = [
    // A linear is left as it is, and three have 3, 5 and 8 bits.
    ("autoround", None),
    ("autoround2", Some("2bit-g32")),
    ("b2", Some("2bit-g32")),
    ("b3asym", Some("3bit-g32")),
    ("b3zero", Some("3bit-g32")),
    ("b4", Some("4bit-g32")),
    ("b4order", Some("4bit-g32")),
    ("b4v2", Some("4bit-g32")),
    ("b4zero", Some("4bit-g32")),
    ("b8row", Some("8bit-channel")),
    ("mixed", None),
    ("planar", None),
];

fn folder(name: &str) -> PathBuf {
    fixture("gptq").join(name)
}

pub(crate) fn told(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The rows of a variant, and the mean loss that transformers has with the weights for which they stand.
pub(crate) fn rows(variant: &Path, place: &TempDir) -> (PathBuf, f64) {
    let expected = told(&variant.join("expected.json"));
    let path = place.path().join("rows.jsonl");
    let rows = expected["input_ids"].as_array().unwrap().iter();
    let lines: Vec<_> = rows.map(|row| json!({"input_ids": row}).to_string()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    (path, expected["mean_nll"].as_f64().unwrap())
}

/// The reference gives its weights in binary16; ours are the exact products.
#[test]
fn weights_are_those_of_the_reference() {
    for (variant, level) in VARIANTS {
        let source = quantised::open(&folder(variant)).unwrap();
        assert_eq!((&*source.format, source.level.as_deref()), ("gptq", level), "{variant}");
        let bytes = fs::read(folder(variant).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let mut compared = 0;
        for (id, tensor) in (0..).zip(&source.model.tensors) {
            let Ok(weights) = expected.tensor(&tensor.name) else { continue };
            let weights: Vec<_> = weights.data().as_chunks().0.iter().map(|raw| f16::from_le_bytes(*raw)).collect();
            let found = source.rows(id, 0, tensor.rows()).unwrap();
            assert_eq!(found.len(), weights.len(), "{variant} {}", tensor.name);
            let wrong = found.iter().zip(&weights).position(|(found, weight)| f16::from_f32(*found) != *weight);
            assert_eq!(wrong, None, "{variant} {}: {:?}", tensor.name, wrong.map(|at| (found[at], weights[at])));
            // Any rows are those of the whole.
            let (first, rows) = (tensor.rows() / 3, tensor.rows().div_ceil(3));
            let part = source.rows(id, first, rows).unwrap();
            let start = usize::try_from(first * tensor.row_elements()).unwrap();
            assert!(part.iter().zip(&found[start..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{variant}");
            compared += 1;
        }
        assert_eq!(compared, expected.names().len(), "{variant}");
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for variant in VARIANTS.iter().map(|(variant, _)| *variant).chain(["conv1d"]) {
        let place = tempfile::tempdir().unwrap();
        let (rows, expected) = rows(&folder(variant), &place);
        let told = Qhost::new(["eval"]).arg(folder(variant)).arg("--dataset").arg(rows).json();
        let loss = told["mean_nll"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-4, "{variant}: {loss}, and not {expected}");
        assert_eq!(told["tokens"], 78, "{variant}");
    }
}

/// The two checkpoint formats differ in how they store zero points, and in nothing that comes out.
#[test]
fn a_folder_is_measured_against_its_original() {
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = rows(&folder("b4"), &place);
    let divergence = |variant: &str| {
        let command = Qhost::new(["eval"]).arg(folder(variant)).arg("--dataset").arg(&rows);
        let told = command.arg("--against").arg(folder("base")).json();
        told["kl_mean"].as_f64().unwrap()
    };
    let (eight, four, two) = (divergence("b8row"), divergence("b4"), divergence("b2"));
    assert!(0.0 < eight && eight < four && four < two && eight < 1e-3, "{eight} {four} {two}");
}

#[test]
fn what_is_in_a_folder_is_told() {
    let inspected = |original: &Path| Qhost::new(["inspect"]).arg(original).json()["parameter_count"].clone();
    let (of_qwen, of_autoround) = (inspected(&folder("base")), inspected(&fixture("awq/base")));
    for (variant, level) in VARIANTS {
        let told = Qhost::new(["inspect"]).arg(folder(variant)).json();
        assert_eq!((&told["format"], &told["family"]), (&json!("gptq"), &json!("qwen2")), "{variant}");
        assert_eq!((told["level"].as_str(), &told["not_understood"]), (level, &Value::Null), "{variant}");
        let original = if variant.starts_with("autoround") { &of_autoround } else { &of_qwen };
        assert_eq!(told["parameter_count"], *original, "{variant}");
        assert_eq!(told["files"].as_array().unwrap().len(), 1, "{variant}");
        let version = match variant {
            "b4v2" | "autoround2" => "gptq_v2",
            "planar" => "gptq_p",
            _ => "gptq",
        };
        assert_eq!(told["format_version"], version, "{variant}");
        let tensors = told["tensors"].as_array().unwrap();
        let tensor = |name: &str| tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        let query = tensor("model.layers.0.self_attn.q_proj.qweight");
        assert_eq!((&query["role"], &query["layer"], &query["weights"]), (&json!("attn_q"), &json!(0), &json!(4096)));
        assert_eq!(tensor("model.layers.0.self_attn.q_proj.scales")["weights"], 0, "{variant}");
        let setting = |key: &str| {
            let mut entries = told["metadata"].as_array().unwrap().iter();
            let key = format!("quantization_config.{key}");
            entries.find(|entry| entry["key"] == *key).map(|entry| entry["value"].clone())
        };
        let ordered = (!variant.starts_with("autoround")).then(|| json!(variant == "b4order"));
        assert_eq!(setting("desc_act"), ordered, "{variant}");
        assert!(setting("bits").is_some() && setting("sym").is_some() && setting("group_size").is_some(), "{variant}");
    }
}

#[test]
fn sound_folders_pass_and_show_the_error_of_every_linear() {
    for (variant, largest) in
        [("b8row", 0.02), ("b4", 0.2), ("b4order", 0.2), ("b4v2", 0.2), ("b3asym", 0.35), ("mixed", 0.2)]
    {
        let told = Qhost::new(["verify"]).arg(folder(variant)).arg("--against").arg(folder("base")).json();
        assert_eq!(told["status"], "ok", "{variant}: {told}");
        let text = told.to_string();
        for check in ["structure", "order", "zeros", "numbers", "comparison"] {
            assert!(text.contains(&format!("\"{check}\"")), "{variant}: {told}");
        }
        let tensors = told["comparison"]["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 14, "{variant}: {told}");
        for tensor in tensors {
            let error = tensor["relative_rms_error"].as_f64().unwrap();
            let packed = tensor["name"].as_str().unwrap().ends_with(".qweight");
            assert!(if packed { error > 0.0 && error < largest } else { error < 0.01 }, "{variant}: {tensor}");
        }
        assert_eq!(told["comparison"]["not_compared"], json!([]), "{variant}");
    }
    // The source has the outputs of these linears as columns.
    let told = Qhost::new(["verify"]).arg(folder("conv1d")).arg("--against").arg(fixture("arch").join("gpt2")).json();
    assert_eq!(told["comparison"]["tensors"].as_array().unwrap().len(), 40, "{told}");
}

#[test]
fn another_checkpoint_is_not_the_original() {
    let ended = Qhost::new(["verify"]).arg(folder("b4")).arg("--against").arg(fixture("arch").join("qwen2")).run();
    assert!(matches!(ended.code, Some(5 | 8)), "{ended:?}");
}

/// A copy of a variant, spoiled.
fn spoiled(variant: &str, spoil: impl FnOnce(&Path)) -> (TempDir, PathBuf) {
    spoiled_copy(&folder(variant), spoil)
}

/// A copy of a folder, spoiled.
pub(crate) fn spoiled_copy(folder: &Path, spoil: impl FnOnce(&Path)) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let copy = copy_of(folder, place.path());
    spoil(&copy);
    (place, copy)
}

/// The folder with one tensor replaced: its shape, or its bytes.
pub(crate) fn change(copy: &Path, name: &str, edit: impl FnOnce(&mut Vec<usize>, &mut Vec<u8>)) {
    let path = copy.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mut edit, mut changed) = (Some(edit), Vec::new());
    for (key, tensor) in tensors.tensors() {
        let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        if key == name {
            edit.take().unwrap()(&mut shape, &mut data);
        }
        changed.push((key, tensor.dtype(), shape, data));
    }
    assert!(edit.is_none(), "there is no {name}");
    let views = changed.iter().map(|(key, dtype, shape, data)| {
        (key.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let text = safetensors::serialize(views, None).unwrap();
    fs::write(path, text).unwrap();
}

pub(crate) fn setting(copy: &Path, key: &str, value: Value) {
    let path = copy.join("config.json");
    let mut config = told(&path);
    config["quantization_config"][key] = value;
    write_json(&path, &config);
}

pub(crate) type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;

#[test]
fn folders_that_are_damaged_or_lie_are_refused_by_name() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let cut = |copy: &Path, keep: usize| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..keep]).unwrap();
    };
    let index = |copy: &Path, map: Value| {
        fs::rename(copy.join("model.safetensors"), copy.join("model-00001-of-00002.safetensors")).unwrap();
        write_json(&copy.join("model.safetensors.index.json"), &json!({"weight_map": map}));
    };
    let first = "model-00001-of-00002.safetensors";
    let cases: Vec<(Spoil<'_>, i32, &[&str])> = vec![
        (Box::new(|copy| cut(copy, 60_000)), 5, &["model.safetensors"]),
        (Box::new(|copy| cut(copy, 5)), 5, &["model.safetensors"]),
        (
            Box::new(|copy| fs::write(copy.join("model.safetensors"), u64::MAX.to_le_bytes()).unwrap()),
            5,
            &["model.safetensors"],
        ),
        (
            Box::new(|copy| index(copy, json!({"a": first, "b": "model-00002-of-00002.safetensors"}))),
            5,
            &["model.safetensors.index.json", "a"],
        ),
        (
            Box::new(|copy| index(copy, json!({"b": "model-00002-of-00002.safetensors"}))),
            5,
            &["model-00002-of-00002.safetensors"],
        ),
        (Box::new(|copy| setting(copy, "bits", json!(9))), 4, &["9 bits", "config.json"]),
        (Box::new(|copy| setting(copy, "bits", json!(5))), 5, &["qzeros", "5"]),
        (Box::new(|copy| setting(copy, "is_marlin_format", json!(true))), 4, &["Marlin"]),
        (Box::new(|copy| setting(copy, "bits", json!(8))), 5, &["qzeros", "8"]),
        (Box::new(|copy| setting(copy, "bits", json!("four"))), 5, &["bits", "config.json"]),
        (Box::new(|copy| setting(copy, "group_size", json!(0))), 5, &["group_size", "config.json"]),
        (Box::new(|copy| setting(copy, "group_size", json!(48))), 5, &["scales", "48"]),
        (Box::new(|copy| setting(copy, "checkpoint_format", json!("marlin"))), 4, &["marlin"]),
        (Box::new(|copy| setting(copy, "pack_dtype", json!("int64"))), 4, &["int64"]),
        (Box::new(|copy| change(copy, &format!("{Q}.qweight"), |shape, _| *shape = vec![16, 32])), 5, &[Q, "scales"]),
        (
            Box::new(|copy| {
                change(copy, &format!("{Q}.g_idx"), |shape, data| {
                    *shape = vec![40];
                    data.truncate(40 * 4);
                });
            }),
            5,
            &[Q, "g_idx"],
        ),
        (
            Box::new(|copy| {
                change(copy, &format!("{Q}.scales"), |shape, data| {
                    *shape = vec![1, 64];
                    data.truncate(128);
                });
            }),
            5,
            &[Q, "qzeros"],
        ),
    ];
    for (spoil, code, words) in cases {
        let (place, copy) = spoiled("b4", |copy| spoil(copy));
        let (rows, _) = rows(&folder("b4"), &place);
        for command in [Qhost::new(["inspect"]).arg(&copy), Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(&rows)]
        {
            let message = command.fail_with(code)["message"].to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        }
    }
}

/// What only the data tell is found when they are looked at.
#[test]
fn damaged_orders_scales_and_zeros_are_found() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let without = |copy: &Path, ending: &str| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors.tensors().into_iter().filter(|(name, _)| *name != format!("{Q}{ending}"));
        fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
    };
    for ending in [".qweight", ".qzeros", ".scales"] {
        let (place, copy) = spoiled("b4", |copy| without(copy, ending));
        let (rows, _) = rows(&folder("b4"), &place);
        let message = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).fail_with(5)["message"].to_string();
        assert!(message.contains(&format!("{Q}{ending} is not there")), "{message}");
    }
    for (group, place) in [(-1_i32, "-1"), (2, "group 2"), (i32::MAX, "2147483647")] {
        let (place_of, copy) = spoiled("b4order", |copy| {
            change(copy, &format!("{Q}.g_idx"), |_, data| data[8..12].copy_from_slice(&group.to_le_bytes()));
        });
        let (rows, _) = rows(&folder("b4order"), &place_of);
        let message = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).fail_with(5)["message"].to_string();
        assert!(message.contains(Q) && message.contains("g_idx") && message.contains(place), "{message}");
        assert!(Qhost::new(["verify"]).arg(&copy).fail_with(8).to_string().contains("g_idx"));
    }
    let (_place, copy) = spoiled("b4", |copy| {
        change(copy, &format!("{Q}.scales"), |_, data| data[6..8].copy_from_slice(&0x7c00_u16.to_le_bytes()));
    });
    assert!(Qhost::new(["verify"]).arg(&copy).fail_with(8).to_string().contains("q_proj.scales"));
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = rows(&folder("b4"), &place);
    let message = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).fail_with(5)["message"].to_string();
    assert!(message.contains("q_proj.scales") && message.contains("output 3 in group 0"), "{message}");
    // The config says that all groups are symmetric, and some programs do not look further.
    let (_place, copy) = spoiled("b4", |copy| {
        change(copy, &format!("{Q}.qzeros"), |_, data| data[0] = 0x76);
    });
    assert!(Qhost::new(["verify"]).arg(&copy).fail_with(8).to_string().contains("q_proj.qzeros"));
}

/// Older writers leave the order out, keep the settings in a file of their own, and give every linear a bias.
#[test]
fn folders_of_other_writers_are_read() {
    let (place, copy) = spoiled("b4", |copy| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let bias = [0_u8; 128];
        let kept = tensors.tensors().into_iter().filter(|(name, _)| !name.ends_with(".g_idx"));
        let bias = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![64], &bias).unwrap();
        let all = kept.chain([("model.layers.0.self_attn.o_proj.bias".to_owned(), bias)]);
        let text = safetensors::serialize(all, None).unwrap();
        // The file has a name by the settings.
        fs::write(copy.join("gptq_model-4bit-32g.safetensors"), text).unwrap();
        fs::remove_file(&path).unwrap();
        let mut config = told(&copy.join("config.json"));
        let settings = config["quantization_config"].take();
        config.as_object_mut().unwrap().remove("quantization_config");
        write_json(&copy.join("config.json"), &config);
        write_json(
            &copy.join("quantize_config.json"),
            &json!({"bits": settings["bits"], "group_size": 32, "desc_act": false}),
        );
    });
    let (rows, expected) = rows(&folder("b4"), &place);
    let told = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).json();
    assert!((told["mean_nll"].as_f64().unwrap() - expected).abs() < 1e-4, "{told}");
}

#[test]
fn programs_that_load_the_format_are_asked_for() {
    let with_tokenizer = |copy: &Path| {
        let file = "tokenizer.json";
        fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), copy.join(file)).unwrap();
    };
    for (variant, loader, passes) in [
        ("b4", "vllm", true),
        ("b4", "transformers", true),
        ("b8row", "vllm", true),
        ("b2", "vllm", false),
        ("b2", "gptqmodel", true),
        ("b4order", "vllm", false),
        ("b4order", "sglang", true),
        ("b4v2", "sglang", false),
        ("b4zero", "vllm", false),
    ] {
        let (_place, copy) = spoiled(variant, with_tokenizer);
        let command = Qhost::new(["verify"]).arg(&copy).args(["--for", loader]);
        if passes { drop(command.json()) } else { drop(command.fail_with(8)) }
    }
    let (_place, copy) = spoiled("b4", |_| ());
    assert!(Qhost::new(["verify"]).arg(&copy).args(["--for", "vllm"]).fail_with(8).to_string().contains("tokenizer"));
    drop(Qhost::new(["verify"]).arg(&copy).args(["--for", "ollama"]).fail_with(2));
}

#[test]
fn what_is_quantised_already_is_not_quantised_again_and_what_nobody_reads_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.gguf");
    let command = Qhost::new(["quantize"]).arg(folder("b4")).args(["--format", "gguf", "--level", "Q8_0", "--output"]);
    let message = command.arg(&out).fail_with(4)["message"].to_string();
    assert!(message.contains("already quantised") && message.contains("gptq") && !out.exists(), "{message}");
    let (unread, copy) = spoiled("b4", |copy| setting(copy, "quant_method", json!("hyperquant")));
    let (rows, _) = rows(&folder("b4"), &unread);
    let refused = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).fail_with(4);
    assert!(refused["message"].to_string().contains("hyperquant"), "{refused}");
    assert!(refused["hint"].to_string().contains("plugins list"), "{refused}");
    // What is there is still told.
    let told = Qhost::new(["inspect"]).arg(&copy).json();
    assert_eq!(told["quantization_config"]["quant_method"], "hyperquant", "{told}");
}
