//! What scales of inputs are for: a model whose inputs have very different sizes computes what one with even inputs
//! computes, and its AWQ folder has to be as good. And what the report tells of every input.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use half::bf16;
use qhost_tests::{checkpoint::copy_of, command::Qhost, fixture};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A power of two between 1/8 and 8, which changes no digit of what is multiplied with it.
    fn power(&mut self) -> f32 {
        [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0][usize::try_from(self.below(7)).unwrap()]
    }
}

/// Rows of tokens that every fixture's vocabulary has.
fn rows(folder: &Path, name: &str, seed: u64) -> PathBuf {
    let (path, mut random) = (folder.join(name), Random(seed));
    let mut text = String::new();
    for _ in 0..24 {
        let tokens: Vec<_> = (0..48).map(|_| random.below(300)).collect();
        writeln!(text, "{{\"input_ids\": {tokens:?}}}").unwrap();
    }
    fs::write(&path, text).unwrap();
    path
}

/// A checkpoint of bf16: shapes and numbers.
type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn weights(model: &Path) -> Weights {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let numbers = |data: &[u8]| data.as_chunks().0.iter().map(|raw| bf16::from_le_bytes(*raw).to_f32()).collect();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
            (name, (tensor.shape().to_vec(), numbers(tensor.data())))
        })
        .collect()
}

fn write(model: &Path, weights: &Weights) {
    let bytes: Vec<Vec<u8>> = weights
        .values()
        .map(|(_, numbers)| numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect())
        .collect();
    let views = weights
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
    fs::write(model.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Multiplies an input of a matrix, or all of it that reads one.
fn divide_inputs(weights: &mut Weights, reader: &str, by: &[f32]) {
    let (_, numbers) = weights.get_mut(reader).unwrap();
    numbers.chunks_exact_mut(by.len()).flatten().zip(by.iter().cycle()).for_each(|(weight, by)| *weight /= by);
}

fn multiply_outputs(weights: &mut Weights, maker: &str, by: &[f32]) {
    let (_, numbers) = weights.get_mut(maker).unwrap();
    let inputs = numbers.len() / by.len();
    numbers.chunks_exact_mut(inputs).zip(by).for_each(|(row, by)| row.iter_mut().for_each(|weight| *weight *= by));
}

/// The same model with inputs of other sizes: norms, and outputs of value and up projections, are multiplied with powers of
/// two, and what reads them is divided. Heads are `head` wide, and so many queries share a value.
fn spoiled(model: &Path, folder: &Path, (head, share): (usize, usize)) -> PathBuf {
    let copy = copy_of(model, folder);
    let (mut weights, mut random) = (weights(&copy), Random(9));
    let names: Vec<_> = weights.keys().cloned().collect();
    let layers = names.iter().filter_map(|name| name.strip_suffix("input_layernorm.weight"));
    for layer in layers {
        let of_layer = |word: &str| format!("{layer}{word}");
        let all = |part: &str, ends: &[&str]| {
            let reads = |name: &&String| {
                name.starts_with(&of_layer(part)) && ends.iter().any(|end| name.ends_with(&format!(".{end}.weight")))
            };
            names.iter().filter(reads).cloned().collect::<Vec<_>>()
        };
        for (norm, part, readers) in [
            ("input_layernorm.weight", "self_attn", &["q_proj", "k_proj", "v_proj"][..]),
            ("post_attention_layernorm.weight", "mlp", &["gate_proj", "up_proj", "gate"][..]),
        ] {
            let by: Vec<_> = weights[&of_layer(norm)].1.iter().map(|_| random.power()).collect();
            multiply_outputs(&mut weights, &of_layer(norm), &by);
            for reader in all(part, readers) {
                divide_inputs(&mut weights, &reader, &by);
            }
        }
        for up in all("mlp", &["up_proj"]) {
            let by: Vec<_> = (0..weights[&up].0[0]).map(|_| random.power()).collect();
            multiply_outputs(&mut weights, &up, &by);
            divide_inputs(&mut weights, &up.replace("up_proj", "down_proj"), &by);
        }
        let value = of_layer("self_attn.v_proj.weight");
        let by: Vec<_> = (0..weights[&value].0[0]).map(|_| random.power()).collect();
        multiply_outputs(&mut weights, &value, &by);
        let shared = |channel: usize| by[channel / head / share * head + channel % head];
        let shared: Vec<_> = (0..by.len() * share).map(shared).collect();
        divide_inputs(&mut weights, &of_layer("self_attn.o_proj.weight"), &shared);
    }
    write(&copy, &weights);
    copy
}

fn made(format: &str, model: &Path, folder: &Path, arguments: &[&str]) -> (PathBuf, Value) {
    let output = folder.join(format!("{format}-of-{}", model.parent().unwrap().file_name().unwrap().to_str().unwrap()));
    let quantize = Qhost::new(["quantize", "--format", format, "--group-size", "32"]).args(arguments.iter().copied());
    let result =
        quantize.arg("--calibration").arg(rows(folder, "calibration.jsonl", 1)).arg("-o").arg(&output).arg(model);
    let output = PathBuf::from(result.json()["output_path"].as_str().unwrap());
    let report = serde_json::from_slice(&fs::read(output.join("qhost-report.json")).unwrap()).unwrap();
    (output, report)
}

fn divergence(output: &Path, model: &Path, folder: &Path) -> f64 {
    let eval = Qhost::new(["eval"]).arg(output).arg("--against").arg(model);
    let result = eval.arg("--dataset").arg(rows(folder, "evaluation.jsonl", 2)).json();
    result["kl_mean"].as_f64().unwrap()
}

/// What the report has of inputs: the losses of rounding to nearest, without scales and with scales.
fn losses(report: &Value) -> Vec<[f64; 3]> {
    let of_input = |tensor: &Value| {
        let metric = |key: &str| tensor["metrics"][key].as_f64();
        Some([metric("loss_rounded_to_nearest")?, metric("loss_without_scales")?, metric("loss_with_scales")?])
    };
    report["tensors"].as_array().unwrap().iter().filter_map(of_input).collect()
}

#[test]
fn inputs_of_very_different_sizes_do_no_harm() {
    for (name, heads) in [("arch/llama", (16, 2)), ("arch/qwen3_moe", (32, 2))] {
        let folder = tempfile::tempdir().unwrap();
        let original = copy_of(&fixture(name), &folder.path().join("original"));
        let spoiled = spoiled(&original, &folder.path().join("spoiled"), heads);
        let same = divergence(&spoiled, &original, folder.path());
        assert!(same < 1e-7, "{name}: {same}: not the same model");
        let (of_original, _) = made("awq", &original, folder.path(), &[]);
        let (of_spoiled, report) = made("awq", &spoiled, folder.path(), &[]);
        let expected = divergence(&of_original, &original, folder.path());
        let found = divergence(&of_spoiled, &original, folder.path());
        let (without, _) = made("gptq", &spoiled, folder.path(), &["--asym"]);
        let without = divergence(&without, &original, folder.path());
        assert!(found < 1.4 * expected, "{name}: {found}, and of the even model {expected}");
        assert!(without > 5.0 * found, "{name}: {without} without scales, {found} with");
        for [_, without, with] in losses(&report) {
            assert!(with <= without, "{name}: {with} {without}");
        }
    }
}

/// What is not quantised is multiplied with powers of two, so that not a digit changes.
#[test]
fn routers_choose_as_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let original = copy_of(&fixture("arch/qwen3_moe"), &folder.path().join("original"));
    let spoiled = spoiled(&original, &folder.path().join("spoiled"), (32, 2));
    let (output, _) = made("awq", &spoiled, folder.path(), &[]);
    let bytes = fs::read(output.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().map(|raw| bf16::from_le_bytes(*raw).to_f32()).collect()
    };
    let before = weights(&spoiled);
    let mut scaled = 0;
    for layer in 0..3 {
        let of_layer = |word: &str| format!("model.layers.{layer}.{word}");
        let norm = of_layer("post_attention_layernorm.weight");
        let scales: Vec<_> = before[&norm].1.iter().zip(numbers(&norm)).map(|(old, new)| old / new).collect();
        scaled += scales.iter().filter(|scale| scale.log2().abs() > 0.5).count();
        assert!(scales.iter().all(|scale| scale.log2().fract().abs() < f32::EPSILON), "{scales:?}");
        let router = of_layer("mlp.gate.weight");
        let by = before[&router].1.iter().zip(scales.iter().cycle()).map(|(weight, scale)| (weight * scale).to_bits());
        assert_eq!(by.collect::<Vec<_>>(), numbers(&router).into_iter().map(f32::to_bits).collect::<Vec<_>>());
    }
    assert!(scaled > 48, "{scaled}");
}

#[test]
fn no_input_is_rounded_worse_than_to_nearest() {
    for name in ["llama", "qwen2_moe", "phi3", "gpt2", "olmo2", "opt"] {
        let folder = tempfile::tempdir().unwrap();
        let (_, report) = made("awq", &fixture("arch").join(name), folder.path(), &[]);
        let losses = losses(&report);
        assert!(losses.len() >= 6, "{name}: {losses:?}");
        for [nearest, without, with] in losses {
            assert!(with <= without && without < nearest, "{name}: {nearest} {without} {with}");
        }
    }
}

/// Of inputs that hardly matter, errors of others must not be made good by large weights.
#[test]
fn what_is_told_of_scales_is_true_of_inputs_that_are_tiny() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("arch/llama"), &folder.path().join("tiny"));
    let mut weights = weights(&model);
    for layer in 0..3 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let (_, gains) = weights.get_mut(&format!("model.layers.{layer}.{norm}.weight")).unwrap();
            gains.iter_mut().step_by(8).for_each(|gain| *gain *= 2_f32.powi(-10));
        }
    }
    write(&model, &weights);
    let (_, report) = made("awq", &model, folder.path(), &[]);
    let losses = losses(&report);
    assert_eq!(losses.len(), 12);
    for [nearest, without, with] in losses {
        assert!(with <= without && without < nearest, "{nearest} {without} {with}");
    }
}
