//! Folders in the AWQ format that `GPTQModel`, `AutoAWQ` and `AutoRound` made: what comes out of them is what its own reader says, scales that it has
//! chosen are undone where weights are held against the original's, and whatever is wrong with a folder is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use qhost_tests::{checkpoint::write_json, command::Qhost, fixture};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::{
    packed::{Spoil, change, rows, setting, spoiled_copy, told},
    quantised,
};

/// Every variant, the level that it has, and its layout.
const VARIANTS: [(&str, &str, &str); 7] = [
    ("asym", "4bit-g32", "gemm"),
    ("autoround", "4bit-g32", "gemm"),
    ("bf16", "4bit-g32", "gemm"),
    ("gemv", "4bit-g32", "gemv"),
    ("gemv_fast", "4bit-g32", "gemv_fast"),
    ("row", "4bit-channel", "gemm"),
    ("sym", "4bit-g32", "gemm"),
];

const LAYER: &str = "model.layers.0";
const Q: &str = "model.layers.0.self_attn.q_proj";

fn folder(name: &str) -> PathBuf {
    fixture("awq").join(name)
}

/// A weight as the reference gives it, in 16 bits of its type.
fn rounded(weight: f32, dtype: Dtype) -> u16 {
    if dtype == Dtype::BF16 { bf16::from_f32(weight).to_bits() } else { f16::from_f32(weight).to_bits() }
}

/// The reference gives its weights in the type of the scales; ours are the exact products.
#[test]
fn weights_are_those_of_the_reference() {
    for (variant, level, _) in VARIANTS {
        let source = quantised::open(&folder(variant)).unwrap();
        assert_eq!((&*source.format, source.level.as_deref()), ("awq", Some(level)), "{variant}");
        let bytes = fs::read(folder(variant).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let mut compared = 0;
        for (id, tensor) in (0..).zip(&source.model.tensors) {
            let Ok(weights) = expected.tensor(&tensor.name) else { continue };
            let dtype = weights.dtype();
            let weights: Vec<_> = weights.data().as_chunks().0.iter().map(|raw| u16::from_le_bytes(*raw)).collect();
            let found = source.rows(id, 0, tensor.rows()).unwrap();
            assert_eq!(found.len(), weights.len(), "{variant} {}", tensor.name);
            // A difference of nothing is a zero of either sign.
            let same =
                |found: f32, weight: u16| rounded(found + 0.0, dtype) == if weight == 0x8000 { 0 } else { weight };
            let wrong = found.iter().zip(&weights).position(|(found, weight)| !same(*found, *weight));
            assert_eq!(wrong, None, "{variant} {}: {:?}", tensor.name, wrong.map(|at| (found[at], weights[at])));
            // Any rows are those of the whole, in the middle of a word too.
            for (first, rows) in [(tensor.rows() / 3, tensor.rows().div_ceil(3)), (5, 1)] {
                let part = source.rows(id, first, rows).unwrap();
                let start = usize::try_from(first * tensor.row_elements()).unwrap();
                assert!(part.iter().zip(&found[start..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{variant}");
            }
            compared += 1;
        }
        assert_eq!(compared, expected.names().len(), "{variant}");
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for (variant, ..) in VARIANTS {
        let place = tempfile::tempdir().unwrap();
        let (rows, expected) = rows(&folder(variant), &place);
        let told = Qhost::new(["eval"]).arg(folder(variant)).arg("--dataset").arg(rows).json();
        let loss = told["mean_nll"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{variant}: {loss}, and not {expected}");
        assert_eq!(told["tokens"], 78, "{variant}");
    }
}

#[test]
fn what_is_in_a_folder_is_told() {
    let original = Qhost::new(["inspect"]).arg(folder("base")).json();
    for (variant, level, layout) in VARIANTS {
        let told = Qhost::new(["inspect"]).arg(folder(variant)).json();
        assert_eq!((&told["format"], &told["family"]), (&json!("awq"), &json!("qwen2")), "{variant}");
        assert_eq!((&told["level"], &told["not_understood"]), (&json!(level), &Value::Null), "{variant}");
        assert_eq!(told["format_version"], layout, "{variant}");
        assert_eq!(told["parameter_count"], original["parameter_count"], "{variant}");
        let tensors = told["tensors"].as_array().unwrap();
        let tensor = |name: &str| tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        let query = tensor(&format!("{Q}.qweight"));
        assert_eq!((&query["role"], &query["layer"], &query["weights"]), (&json!("attn_q"), &json!(0), &json!(4096)));
        assert_eq!(tensor(&format!("{Q}.qzeros"))["weights"], 0, "{variant}");
        let zeros = if variant == "autoround" { "sym" } else { "zero_point" };
        assert!(told.to_string().contains(&format!("\"quantization_config.{zeros}\"")), "{variant}");
    }
}

/// The writer has divided norms, and the outputs that make an input, by the scales that it has multiplied inputs with.
#[test]
fn scales_are_undone_where_weights_are_held_against_the_original() {
    for (variant, ..) in VARIANTS {
        let told = Qhost::new(["verify"]).arg(folder(variant)).arg("--against").arg(folder("base")).json();
        assert_eq!(told["status"], "ok", "{variant}: {told}");
        let text = told.to_string();
        for check in ["structure", "zeros", "numbers", "comparison"] {
            assert!(text.contains(&format!("\"{check}\"")), "{variant}: {told}");
        }
        let tensors = told["comparison"]["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 14, "{variant}: {told}");
        assert_eq!(told["comparison"]["not_compared"], json!([]), "{variant}");
        for tensor in tensors {
            let (name, error) = (tensor["name"].as_str().unwrap(), tensor["relative_rms_error"].as_f64().unwrap());
            // The factors of rows are found with the error of 64 rounded weights.
            let largest = if name.ends_with(".qweight") { 0.15 } else { 0.03 };
            assert!(error < largest && (error > 0.0) >= name.ends_with(".qweight"), "{variant}: {tensor}");
        }
    }
}

/// What the scales of inputs are not the inverse of is an error.
#[test]
fn what_does_not_fit_the_scales_is_an_error() {
    let larger = |data: &mut Vec<u8>| {
        for raw in data.as_chunks_mut().0 {
            *raw = f16::from_f32(f16::from_le_bytes(*raw).to_f32() * 1.7).to_le_bytes();
        }
    };
    let spoils: [(&str, &[&str]); 3] = [
        ("input_layernorm.weight", &["q_proj", "k_proj", "o_proj"]),
        ("mlp.up_proj.scales", &["down_proj"]),
        ("mlp.gate_proj.scales", &["gate_proj"]),
    ];
    for (spoilt, wrong) in spoils {
        let (_place, copy) = spoiled_copy(&folder("asym"), |copy| {
            change(copy, &format!("{LAYER}.{spoilt}"), |_, data| larger(data));
        });
        let told = Qhost::new(["verify"]).arg(&copy).arg("--against").arg(folder("base")).json();
        for tensor in told["comparison"]["tensors"].as_array().unwrap() {
            let (name, error) = (tensor["name"].as_str().unwrap(), tensor["relative_rms_error"].as_f64().unwrap());
            let expected = wrong.iter().any(|wrong| name.ends_with(&format!("{wrong}.qweight")));
            assert_eq!(error > 0.6, expected, "{spoilt}: {tensor}");
        }
    }
}

#[test]
fn another_checkpoint_is_not_the_original() {
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = rows(&folder("asym"), &place);
    let divergence = Qhost::new(["eval"]).arg(folder("asym")).arg("--dataset").arg(&rows).arg("--against");
    let divergence = divergence.arg(folder("base")).json()["kl_mean"].as_f64().unwrap();
    assert!(divergence > 0.0 && divergence < 0.05, "{divergence}");
    let ended = Qhost::new(["verify"]).arg(folder("asym")).arg("--against").arg(fixture("arch").join("qwen2")).run();
    assert!(matches!(ended.code, Some(5 | 8)), "{ended:?}");
}

/// The settings out of the config, into a file of their own.
fn settings_to(copy: &Path, file: &str, settings: &Value) {
    let mut config = told(&copy.join("config.json"));
    config.as_object_mut().unwrap().remove("quantization_config");
    write_json(&copy.join("config.json"), &config);
    write_json(&copy.join(file), settings);
}

/// `AutoAWQ` keeps the settings in a file of their own, under other names, and gives every linear a bias; where there are
/// no zero points, some writers store none.
#[test]
fn folders_of_other_writers_are_read() {
    let autoawq = json!({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"});
    let gptqmodel = told(&folder("asym").join("quantize_config.json"));
    for (variant, file, settings) in [
        ("asym", "quant_config.json", &autoawq),
        ("asym", "quantize_config.json", &gptqmodel),
        ("sym", "quant_config.json", &json!({"zero_point": false, "q_group_size": 32, "w_bit": 4, "version": "gemm"})),
    ] {
        let (place, copy) = spoiled_copy(&folder(variant), |copy| {
            drop(fs::remove_file(copy.join("quantize_config.json")));
            settings_to(copy, file, settings);
            let path = copy.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let bias = [0_u8; 128];
            let kept =
                tensors.tensors().into_iter().filter(|(name, _)| variant == "asym" || !name.ends_with(".qzeros"));
            let bias = TensorView::new(Dtype::F16, vec![64], &bias).unwrap();
            let all = kept.chain([(format!("{LAYER}.self_attn.o_proj.bias"), bias)]);
            fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
        });
        let (rows, expected) = rows(&folder(variant), &place);
        let told = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(rows).json();
        assert!((told["mean_nll"].as_f64().unwrap() - expected).abs() < 1e-5, "{file}: {told}");
        let told = Qhost::new(["verify"]).arg(&copy).arg("--against").arg(folder("base")).json();
        assert_eq!(told["status"], "ok", "{file}: {told}");
    }
}

#[test]
fn folders_that_are_damaged_or_lie_are_refused_by_name() {
    let cut = |copy: &Path, keep: usize| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..keep]).unwrap();
    };
    let without = |copy: &Path, ending: &str| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let name = format!("{Q}{ending}");
        let kept = tensors.tensors().into_iter().filter(|(found, _)| *found != name);
        fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
    };
    let shape = |copy: &Path, ending: &str, new: [usize; 2]| {
        change(copy, &format!("{Q}{ending}"), |shape, data| {
            data.resize(data.len() / shape.iter().product::<usize>() * new.iter().product::<usize>(), 0);
            *shape = new.to_vec();
        });
    };
    let activation = |copy: &Path| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let scales = [0_u8; 256];
        let scales = TensorView::new(Dtype::F16, vec![128], &scales).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let all = tensors.tensors().into_iter().chain([(format!("{LAYER}.mlp.act_fn.scales"), scales)]);
        fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
    };
    let cases: Vec<(Spoil<'_>, i32, &[&str])> = vec![
        (Box::new(|copy| cut(copy, 60_000)), 5, &["model.safetensors"]),
        (Box::new(|copy| cut(copy, 5)), 5, &["model.safetensors"]),
        (Box::new(|copy| setting(copy, "bits", json!(3))), 4, &["3 bits", "config.json"]),
        (Box::new(|copy| setting(copy, "bits", json!("four"))), 5, &["bits", "config.json"]),
        (Box::new(|copy| setting(copy, "group_size", json!(0))), 5, &["group_size", "config.json"]),
        (Box::new(|copy| setting(copy, "group_size", json!(48))), 5, &["scales", "48"]),
        (Box::new(|copy| setting(copy, "group_size", json!(64))), 5, &["scales", "64"]),
        (Box::new(|copy| setting(copy, "version", json!("GEMV"))), 5, &["q_proj.scales", "outputs"]),
        (Box::new(|copy| setting(copy, "version", json!("gemv_fast"))), 4, &["q_proj.qweight", "I16"]),
        (Box::new(|copy| setting(copy, "version", json!("marlin"))), 4, &["marlin", "Marlin"]),
        (Box::new(|copy| without(copy, ".qzeros")), 5, &["q_proj.qzeros is not there"]),
        (Box::new(|copy| without(copy, ".scales")), 5, &["q_proj.scales is not there"]),
        (Box::new(|copy| without(copy, ".qweight")), 5, &["q_proj.qweight is not there"]),
        (Box::new(|copy| shape(copy, ".qweight", [64, 4])), 5, &["q_proj.qweight", "[64, 4]"]),
        (Box::new(|copy| shape(copy, ".qweight", [32, 8])), 5, &["q_proj.scales", "32 inputs"]),
        (Box::new(|copy| shape(copy, ".qzeros", [2, 4])), 5, &["q_proj.qzeros", "[2, 4]"]),
        (Box::new(|copy| shape(copy, ".qzeros", [1, 8])), 5, &["q_proj.qzeros", "[1, 8]"]),
        (Box::new(|copy| shape(copy, ".scales", [2, 32])), 5, &["q_proj.qweight", "q_proj.scales"]),
        (Box::new(|copy| shape(copy, ".scales", [0, 64])), 5, &["q_proj"]),
        (Box::new(|copy| activation(copy)), 4, &["act_fn.scales", "activation"]),
    ];
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = rows(&folder("asym"), &place);
    for (spoil, code, words) in cases {
        let (_place, copy) = spoiled_copy(&folder("asym"), |copy| spoil(copy));
        for command in [Qhost::new(["inspect"]).arg(&copy), Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(&rows)]
        {
            let message = command.fail_with(code)["message"].to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        }
        drop(Qhost::new(["verify"]).arg(&copy).fail_with(8));
    }
}

/// What only the data tell is found when they are looked at.
#[test]
fn damaged_scales_and_zeros_are_found() {
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = rows(&folder("asym"), &place);
    for bits in [0x7e00_u16, 0x7c00] {
        let (_place, copy) = spoiled_copy(&folder("asym"), |copy| {
            change(copy, &format!("{Q}.scales"), |_, data| data[6..8].copy_from_slice(&bits.to_le_bytes()));
        });
        assert!(Qhost::new(["verify"]).arg(&copy).fail_with(8).to_string().contains("q_proj.scales"));
        let message = Qhost::new(["eval"]).arg(&copy).arg("--dataset").arg(&rows).fail_with(5)["message"].to_string();
        assert!(message.contains("q_proj"), "{message}");
    }
    // The config says that there are no zero points, and some programs do not look further.
    let (_place, copy) = spoiled_copy(&folder("sym"), |copy| {
        change(copy, &format!("{Q}.qzeros"), |_, data| data[0] = 0x87);
    });
    let told = Qhost::new(["verify"]).arg(&copy).fail_with(8).to_string();
    assert!(told.contains("q_proj.qzeros") && told.contains("7 for output 0"), "{told}");
}

#[test]
fn programs_that_load_the_format_are_asked_for() {
    let with_tokenizer = |copy: &Path| {
        let file = "tokenizer.json";
        fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), copy.join(file)).unwrap();
    };
    // A linear that is not packed.
    let unpacked = |copy: &Path| {
        let path = copy.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weight = [0_u8; 64 * 64 * 2];
        let weight = TensorView::new(Dtype::F16, vec![64, 64], &weight).unwrap();
        let kept =
            tensors.tensors().into_iter().filter(|(name, _)| !name.starts_with(&format!("{LAYER}.self_attn.o_proj")));
        let all = kept.chain([(format!("{LAYER}.self_attn.o_proj.weight"), weight)]);
        fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
    };
    let key = "modules_to_not_convert";
    let cases: [(&str, Option<Value>, bool, bool); 8] = [
        ("vllm", None, false, true),
        ("transformers", None, false, true),
        // Without the list it looks at the tensors; transformers does not.
        ("vllm", None, true, true),
        ("transformers", None, true, false),
        ("vllm", Some(json!(["lm_head"])), true, false),
        ("vllm", Some(json!(["o_proj"])), true, true),
        ("transformers", Some(json!(["self_attn.o_proj"])), true, true),
        // It stands for what is packed.
        ("sglang", Some(json!(["mlp"])), false, false),
    ];
    for (loader, list, is_left_out, passes) in cases {
        let (_place, copy) = spoiled_copy(&folder("asym"), |copy| {
            with_tokenizer(copy);
            if let Some(list) = &list {
                setting(copy, key, list.clone());
            }
            if is_left_out {
                unpacked(copy);
            }
        });
        let command = Qhost::new(["verify"]).arg(&copy).args(["--for", loader]);
        if passes {
            drop(command.json());
        } else {
            let told = command.fail_with(8).to_string();
            assert!(told.contains(key), "{loader} {list:?}: {told}");
        }
    }
}
