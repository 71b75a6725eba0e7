//! AWQ of every family: folds are exact, everything is quantised, and the folder computes what the model computes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{checkpoint::copy_of, command::Qhost, fixture};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::{
    awq::{decode, evaluated, made, output, run},
    gptq::{Tensors, calibration, floats, tensors},
};

/// Every fixture of a family, with the group size that its widths allow.
fn families() -> Vec<(String, PathBuf, &'static str)> {
    let mut families: Vec<_> = fs::read_dir(fixture("arch"))
        .unwrap()
        .map(|entry| {
            let model = entry.unwrap().path();
            let name = model.file_name().unwrap().to_str().unwrap().to_owned();
            // The latent keys of these fixtures are 24 wide.
            let group = if name.starts_with("deepseek") { "8" } else { "32" };
            (name, model, group)
        })
        .collect();
    families.sort();
    assert!(families.len() >= 28, "{}", families.len());
    families
}

/// Routers have an input of their own in no family: what they see is scaled, and they are kept in their type.
const ROUTERS: [&str; 4] = ["mlp.gate.", "block_sparse_moe.gate.", "router.", "shared_expert_gate."];

fn is_linear(name: &str, stored: &(Dtype, Vec<usize>, Vec<u8>)) -> bool {
    let in_layer = name.split('.').any(|word| word.parse::<u32>().is_ok());
    in_layer && stored.1.len() == 2 && !ROUTERS.iter().any(|part| name.contains(part))
}

/// A family's checkpoint with every weight in 32 bits, which have the same values.
fn widened(model: &Path, folder: &Path) -> PathBuf {
    let wide = copy_of(model, folder);
    let file = wide.join("model.safetensors");
    let widened = tensors(model).into_iter().map(|(name, tensor)| {
        let bytes: Vec<u8> = floats(&tensor).into_iter().flat_map(f32::to_le_bytes).collect();
        (name, tensor.1, bytes)
    });
    let widened: Vec<_> = widened.collect();
    let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
    let views = widened.iter().map(|(name, shape, bytes)| (name, view(shape, bytes)));
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let config = wide.join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"bfloat16\"", "\"float32\"");
    fs::write(config, text).unwrap();
    wide
}

/// With quantisation off it is the model. In 32 bits nothing is left of it but roundings of these: whatever is folded
/// wrongly is larger by orders.
#[test]
fn scaled_models_compute_what_the_originals_compute() {
    let folder = tempfile::tempdir().unwrap();
    let mut scaled = Vec::new();
    for (name, model, group) in families() {
        let arguments = ["--group-size", group, "--plugin-option", "scale-only=true"];
        let (model, output) = (widened(&model, &folder.path().join("wide")), folder.path().join("scaled"));
        let quantize = run("quantize", &model, folder.path(), &arguments).arg("-o").arg(&output);
        if name == "gpt_oss" {
            // Its experts are stacked.
            let error = quantize.fail_with(4);
            assert!(error["message"].as_str().unwrap().contains("stacked"), "{error}");
            continue;
        }
        let output = self::output(&quantize.json());
        let (ours, original) = (tensors(&output), tensors(&model));
        assert!(ours.keys().eq(original.keys()), "{name}: other tensors");
        let config = |folder: &Path| fs::read(folder.join("config.json")).unwrap();
        assert!(config(&output) == config(&model), "{name}: another config");
        let changed = original.iter().filter(|(tensor, stored)| ours[*tensor] != **stored).count();
        let (divergence, _) = evaluated(&output, &model, &calibration(folder.path()));
        assert!(divergence < 2e-8, "{name}: {divergence}");
        if changed > 0 {
            scaled.push(name);
        }
    }
    assert!(scaled.len() >= 28, "only {scaled:?} are scaled");
}

/// Under their names, in their types; nothing else is left out, and experts are no other matter.
#[test]
fn every_family_is_made_and_computes_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, group) in families() {
        let output = made(&model, &folder.path().join(&name), &["--group-size", group]);
        let (ours, original) = (tensors(&output), tensors(&model));
        let stacked = |tensor: &str| name == "gpt_oss" && tensor.contains(".experts.");
        for (tensor, stored) in original.iter().filter(|(tensor, _)| !stacked(tensor)) {
            let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
            if is_linear(tensor, stored) {
                assert!(!ours.contains_key(tensor), "{name}: {tensor}");
                let weights = decode(&ours, module);
                assert!(weights.len() == stored.1[0] * stored.1[1] && ours.contains_key(&format!("{module}.scales")));
            } else {
                let kept = &ours[tensor];
                assert_eq!((kept.0, &kept.1), (stored.0, &stored.1), "{name}: {tensor}");
            }
        }
        let named = told(&output, "modules_to_not_convert");
        let is_named =
            |module: &str| named.as_array().unwrap().iter().any(|part| module.contains(part.as_str().unwrap()));
        for (tensor, stored) in &ours {
            let Some((module, part)) = tensor.rsplit_once('.') else { continue };
            let matrix = part == "weight" && stored.1.len() == 2 && !is_table(module);
            assert!(!matrix || is_named(module), "{name}: {module} is not in {named}");
            assert!(part != "qweight" || !is_named(module), "{name}: {module} is in {named}");
        }
        if name == "gpt_oss" {
            // Experts that were stacked are read by nobody here: its family has them in one tensor.
            continue;
        }
        let (divergence, _) = evaluated(&output, &model, &calibration(folder.path()));
        assert!(divergence < 0.2, "{name}: {divergence}");
    }
}

fn is_table(module: &str) -> bool {
    ["embed_tokens", "wte", "wpe", "embed_in", "embed_positions"].iter().any(|table| module.ends_with(table))
}

fn told(output: &Path, key: &str) -> Value {
    let text = fs::read_to_string(output.join("config.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["quantization_config"][key].clone()
}

/// Experts in one tensor become modules, gate and up by turns; scales of their inputs are in what comes before.
#[test]
fn stacked_experts_are_split_into_modules() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("gpt_oss");
    let output = made(&model, folder.path(), &["--group-size", "32"]);
    let (ours, original) = (tensors(&output), tensors(&model));
    let experts = "model.layers.1.mlp.experts";
    let norm = "model.layers.1.post_attention_layernorm.weight";
    let scales = ratios(&original, &ours, norm);
    let gate_up = floats(&original[&format!("{experts}.gate_up_proj")]);
    let (hidden, ffn) = (64, 160);
    for expert in 0..4 {
        let weight = |output: usize, input: usize| gate_up[(expert * hidden + input) * 2 * ffn + 2 * output];
        let expected: Vec<_> =
            (0..ffn).flat_map(|o| (0..hidden).map(move |i| (o, i))).map(|(o, i)| weight(o, i) * scales[i]).collect();
        let module = format!("{experts}.{expert}.gate_proj");
        let error = crate::gptq::relative_error(&decode(&ours, &module), &expected);
        assert!(error > 0.0 && error < 0.25, "{module}: {error}");
        assert_eq!(ours[&format!("{experts}.{expert}.down_proj.qweight")].1, [ffn, hidden / 8]);
        assert_eq!(ours[&format!("{experts}.{expert}.up_proj.bias")].1, [ffn]);
    }
    assert!(!ours.keys().any(|name| name.contains("gate_up_proj")));
    assert!(told(&output, "modules_to_not_convert").to_string().contains("mlp.router"));
}

/// By what each number of a norm was divided.
fn ratios(original: &Tensors, ours: &Tensors, norm: &str) -> Vec<f32> {
    floats(&original[norm]).iter().zip(floats(&ours[norm])).map(|(before, after)| before / after).collect()
}

/// Its scales are meant for compensated rounding, but another format loses about as much of it as of the original.
#[test]
fn a_scaled_model_is_a_checkpoint_that_other_formats_take() {
    let folder = tempfile::tempdir().unwrap();
    let prose = fixture("text").join("prose.txt");
    let qhost = Qhost::new(["quantize", "--format", "awq", "--samples", "12", "--seq-len", "128", "--calibration"]);
    let qhost = qhost.arg(&prose).args(["--plugin-option", "scale-only=true", "-o"]).arg(folder.path());
    let scaled = output(&qhost.arg(fixture("tinylm")).json());
    let rounded = |model: &Path, name: &str| {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_0", "-o"]).arg(folder.path().join(name));
        let file = qhost.arg(model).json()["output_path"].as_str().unwrap().to_owned();
        evaluated(Path::new(&file), &fixture("tinylm"), &prose).0
    };
    let (of_scaled, of_original) = (rounded(&scaled, "scaled"), rounded(&fixture("tinylm"), "original"));
    assert!(of_scaled < 1.2 * of_original && of_original < 0.02, "{of_scaled} and {of_original}");
}
