//! Families beyond llama: what is refused in the plan, what is left out, and weights that are stored in
//! fewer bits.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{copy_of, write_json},
    command::Qhost,
    fixture,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::gguf::Gguf;

/// A copy of a random checkpoint with a tokenizer.
pub(crate) fn family(name: &str, folder: &Path) -> PathBuf {
    let model = copy_of(&fixture("arch").join(name), folder);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), model.join(file)).unwrap();
    }
    model
}

fn config(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap()
}

fn plan(model: &Path) -> Qhost {
    Qhost::new(["plan", "--format", "gguf", "--level", "Q4_K_M"]).arg(model)
}

pub(crate) fn f32_file(model: &Path, output: &Path) -> Gguf {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "F32", "--no-report", "-o"]);
    let result = qhost.arg(output).arg(model).json();
    Gguf::read(&PathBuf::from(result["output_path"].as_str().unwrap()))
}

/// The tensors of a checkpoint, to be changed and written again.
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn read(model: &Path) -> Self {
        let bytes = fs::read(model.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors.tensors().into_iter();
        Self(tensors.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect())
    }

    fn write(&self, model: &Path) {
        let views = self
            .0
            .iter()
            .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        fs::write(model.join("model.safetensors"), bytes).unwrap();
    }
}

/// Every limit of llama.cpp that a config can pass: exit 4, with a word that tells which.
#[test]
fn what_llama_cpp_cannot_compute_is_refused_in_the_plan() {
    /// A family, what its config is changed to, and a word of the message.
    type Case<'a> = (&'a str, &'a [(&'a str, Value)], &'a str);
    let cases: &[Case<'_>] = &[
        ("opt", &[], "no architecture"),
        ("smollm3", &[], "no_rope_layers"),
        ("exaone4", &[], "64 layers"),
        ("qwen2_moe", &[("norm_topk_prob", json!(true))], "norm_topk_prob"),
        ("qwen3_moe", &[("norm_topk_prob", json!(false))], "norm_topk_prob"),
        ("mixtral", &[("norm_topk_prob", json!(false))], "norm_topk_prob"),
        ("gemma", &[("hidden_activation", json!("silu"))], "silu"),
        ("gemma2", &[("attn_logit_softcapping", Value::Null)], "attn_logit_softcapping"),
        ("gemma2", &[("query_pre_attn_scalar", json!(64))], "query_pre_attn_scalar"),
        ("gemma3_text", &[("query_pre_attn_scalar", json!(64))], "query_pre_attn_scalar"),
        ("gemma3_text", &[("use_bidirectional_attention", json!(true))], "causal"),
        ("gemma3_text", &[("attn_logit_softcapping", json!(50.0))], "soft caps"),
        ("gpt_oss", &[("swiglu_limit", json!(8.0))], "swiglu_limit"),
        ("gpt_oss", &[("sliding_window", json!(0))], "window"),
        ("deepseek_v3", &[("rope_interleave", json!(false))], "rope_interleave"),
        ("deepseek_v3", &[("topk_group", json!(2))], "groups"),
        ("deepseek_v3", &[("scoring_func", json!("tanh"))], "tanh"),
        ("gpt2", &[("scale_attn_by_inverse_layer_idx", json!(true))], "scale_attn_by_inverse_layer_idx"),
        ("gpt_neox", &[("hidden_act", json!("relu"))], "relu"),
        ("phi", &[("hidden_act", json!("silu"))], "silu"),
        ("qwen2", &[("rope_parameters", json!({"rope_type": "llama3", "factor": 8.0}))], "llama3"),
        ("llama", &[("rope_parameters", json!({"rope_type": "longrope"}))], "longrope"),
        ("llama", &[("hidden_act", json!("gelu"))], "gelu"),
        ("llama", &[("model_type", json!("mamba")), ("architectures", json!(["MambaForCausalLM"]))], "mamba"),
    ];
    for (name, changes, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        let model = family(name, folder.path());
        let mut config = config(&model);
        for (key, value) in *changes {
            config[*key] = value.clone();
        }
        write_json(&model.join("config.json"), &config);
        let error = plan(&model).fail_with(4);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(word), "{name}: {message}");
    }
}

#[test]
fn tensors_that_a_family_does_not_have_or_lacks_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = family("mixtral", folder.path());
    let mut tensors = Tensors::read(&model);
    let name = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
    let expert = tensors.0.remove(name).unwrap();
    tensors.write(&model);
    assert!(plan(&model).fail_with(5)["message"].as_str().unwrap().contains(name));
    tensors.0.insert(name.into(), expert.clone());
    tensors.0.insert(name.replace("experts.3", "experts.4"), expert);
    tensors.write(&model);
    assert!(plan(&model).fail_with(4)["message"].as_str().unwrap().contains("experts.4.w2"));
}

/// A multimodal checkpoint around a text model: where its tensors are, and what stands beside them.
pub(crate) const NESTED: [(&str, &str); 2] =
    [("language_model.model.", "vision_tower."), ("model.language_model.", "model.vision_tower.")];

/// Makes one of these of a text model.
pub(crate) fn nested(text: &Path, folder: &Path, (prefix, tower): (&str, &str)) -> PathBuf {
    let model = folder.join("both").join("gemma3_text");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(text).unwrap().flatten() {
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let mut tensors = Tensors::read(text);
    tensors.0 = std::mem::take(&mut tensors.0)
        .into_iter()
        .map(|(name, tensor)| (name.replacen("model.", prefix, 1), tensor))
        .collect();
    tensors.0.insert(format!("{tower}patch.weight"), (Dtype::F32, vec![2, 2], vec![0; 16]));
    tensors.write(&model);
    let mut inner = config(text);
    inner.as_object_mut().unwrap().remove("architectures");
    let outer = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": inner, "vision_config": {"hidden_size": 8}});
    write_json(&model.join("config.json"), &outer);
    model
}

/// transformers 4 and 5 nest the text model in different ways; the file is that of the text model alone.
#[test]
fn of_a_multimodal_checkpoint_the_text_part_is_taken_and_the_rest_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = family("gemma3_text", folder.path());
    let alone = f32_file(&text, &folder.path().join("alone"));
    for (prefix, tower) in NESTED {
        let model = nested(&text, folder.path(), (prefix, tower));
        let plan = plan(&model).json();
        let warnings = plan["warnings"].to_string();
        assert!(warnings.contains("vision_tower (1 tensors)"), "{warnings}");
        let both = f32_file(&model, &folder.path().join("out").join(tower));
        assert_eq!(both.keys, alone.keys);
        for (ours, theirs) in both.tensors.iter().zip(&alone.tensors) {
            assert!(ours.name == theirs.name && ours.data == theirs.data, "{}", ours.name);
        }
    }
}

/// The layer that `DeepSeek` V3 has for predicting a second token is no part of the model.
#[test]
fn layers_that_only_predict_further_tokens_are_left_out_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = family("deepseek_v3", folder.path());
    let mut tensors = Tensors::read(&model);
    let norm = tensors.0["model.layers.2.input_layernorm.weight"].clone();
    tensors.0.insert("model.layers.3.enorm.weight".into(), norm.clone());
    tensors.write(&model);
    let plan_of = plan(&model).json();
    assert!(plan_of["warnings"].to_string().contains("1 tensors of the layers from 3 on"), "{}", plan_of["warnings"]);
    tensors.0.insert("model.layers.4.enorm.weight".into(), norm);
    tensors.write(&model);
    assert_eq!(plan(&model).fail_with(4)["code"], 4);
}

/// GPT-2's own checkpoint has the names of the bare model, and its masks.
#[test]
fn names_without_the_root_and_buffers_make_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    let model = family("gpt2", folder.path());
    let named = f32_file(&model, &folder.path().join("named"));
    let mut tensors = Tensors::read(&model);
    tensors.0 = std::mem::take(&mut tensors.0)
        .into_iter()
        .map(|(name, tensor)| (name.replacen("transformer.", "", 1), tensor))
        .collect();
    tensors.0.insert("h.0.attn.bias".into(), (Dtype::F32, vec![1, 1, 2, 2], vec![0; 16]));
    tensors.write(&model);
    let bare = f32_file(&model, &folder.path().join("bare"));
    for (ours, theirs) in bare.tensors.iter().zip(&named.tensors) {
        assert!(ours.name == theirs.name && ours.data == theirs.data, "{}", ours.name);
    }
}

/// The value of an E4M3 float, by the definition.
fn e4m3(bits: u8) -> f32 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    sign * if exponent == 0 { mantissa / 8.0 * 2f32.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) }
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// A checkpoint of 8-bit floats in blocks that rows and columns do not fill, and one with what they stand for.
pub(crate) fn eight_bits(folder: &Path, scale_dtype: Dtype) -> (PathBuf, PathBuf) {
    let (stored, widened) = (family("qwen3", &folder.join("a")), family("qwen3", &folder.join("b")));
    let (mut eight_bits, mut plain) = (Tensors::read(&stored), Tensors::read(&stored));
    let names: Vec<_> = plain.0.keys().filter(|name| name.contains("_proj.weight")).cloned().collect();
    assert_eq!(names.len(), 21);
    for (number, name) in (1_u8..).zip(&names) {
        let shape = plain.0[name].1.clone();
        let (rows, columns) = (shape[0], shape[1]);
        let (block_rows, block_columns) = (48, 40);
        // Every finite pattern, in an order that differs from tensor to tensor.
        let codes: Vec<u8> = (0..rows * columns)
            .map(|index| u8::try_from(index % 251).unwrap().wrapping_mul(number | 1))
            .map(|bits| if bits & 0x7f == 0x7f { 0 } else { bits })
            .collect();
        let across = columns.div_ceil(block_columns);
        let count = rows.div_ceil(block_rows) * across;
        let scales: Vec<f32> = (0..count).map(|block| 2f32.powi(i32::try_from(block % 7).unwrap() - 3) * 1.5).collect();
        let products = (0..rows * columns).map(|index| {
            let block = index / columns / block_rows * across + index % columns / block_columns;
            e4m3(codes[index]) * scales[block]
        });
        plain.0.insert(name.clone(), (Dtype::F32, shape.clone(), floats(products)));
        let stored_scales = match scale_dtype {
            Dtype::F32 => floats(scales),
            _ => scales.iter().flat_map(|scale| (scale.to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect(),
        };
        eight_bits.0.insert(name.clone(), (Dtype::F8_E4M3, shape, codes));
        let shape = vec![rows.div_ceil(block_rows), across];
        eight_bits.0.insert(format!("{name}_scale_inv"), (scale_dtype, shape, stored_scales));
    }
    plain.write(&widened);
    eight_bits.write(&stored);
    let mut config = config(&stored);
    config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [48, 40], "fmt": "e4m3"});
    write_json(&stored.join("config.json"), &config);
    (stored, widened)
}

/// Scales in both dtypes: the file is that of the products.
#[test]
fn block_scaled_8_bit_floats_are_widened_on_the_fly() {
    let folder = tempfile::tempdir().unwrap();
    for scale_dtype in [Dtype::F32, Dtype::BF16] {
        let (stored, widened) = eight_bits(folder.path(), scale_dtype);
        let made = |model: &Path, level: &str| {
            let qhost = Qhost::new(["quantize", "--format", "gguf", "--force", "--level", level, "-o"]);
            let result = qhost.arg(folder.path().join("out")).arg(model).json();
            fs::read(result["output_path"].as_str().unwrap()).unwrap()
        };
        for level in ["F32", "Q4_K_M", "Q8_0"] {
            assert!(made(&stored, level) == made(&widened, level), "{level}");
        }
        assert!(plan(&stored).json()["warnings"].to_string().contains("8 bits (FP8)"));
        // A block's scale is missing.
        let mut tensors = Tensors::read(&stored);
        tensors.0.remove("model.layers.0.mlp.down_proj.weight_scale_inv").unwrap();
        tensors.write(&stored);
        assert!(plan(&stored).fail_with(5)["message"].as_str().unwrap().contains("_scale_inv"));
    }
}

/// A checkpoint of gpt-oss as it is published, experts in blocks of two halves with gate and up by turns, and one with what
/// they stand for.
pub(crate) fn microscaled(folder: &Path) -> (PathBuf, PathBuf) {
    const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (stored, widened) = (family("gpt_oss", &folder.join("a")), family("gpt_oss", &folder.join("b")));
    let (mut packed, mut plain) = (Tensors::read(&stored), Tensors::read(&stored));
    for layer in 0..3_usize {
        for module in ["gate_up_proj", "down_proj"] {
            let name = format!("model.layers.{layer}.mlp.experts.{module}");
            let (_, shape, _) = packed.0.remove(&name).unwrap();
            let [experts, inputs, outputs] = <[usize; 3]>::try_from(shape.clone()).unwrap();
            let blocks = experts * outputs * inputs / 32;
            let codes: Vec<u8> = (0..blocks * 16).map(|i| u8::try_from((i * 7 + layer) % 256).unwrap()).collect();
            let scales: Vec<u8> = (0..blocks).map(|block| u8::try_from(115 + block % 9).unwrap()).collect();
            let value = |expert: usize, output: usize, input: usize| {
                let index = (expert * outputs + output) * inputs + input;
                let pair = codes[index / 2];
                let bits = if index.is_multiple_of(2) { pair & 15 } else { pair >> 4 };
                let magnitude = E2M1[usize::from(bits & 7)] * 2f32.powi(i32::from(scales[index / 32]) - 127);
                if bits & 8 == 0 { magnitude } else { -magnitude }
            };
            let mut values = Vec::new();
            for expert in 0..experts {
                for input in 0..inputs {
                    values.extend((0..outputs).map(|output| value(expert, output, input)));
                }
            }
            plain.0.insert(name.clone(), (Dtype::F32, shape, floats(values)));
            let shape = vec![experts, outputs, inputs / 32];
            packed.0.insert(format!("{name}_blocks"), (Dtype::U8, [&shape[..], &[16]].concat(), codes));
            packed.0.insert(format!("{name}_scales"), (Dtype::U8, shape, scales));
        }
    }
    plain.write(&widened);
    packed.write(&stored);
    let mut config = config(&stored);
    config["quantization_config"] = json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]});
    write_json(&stored.join("config.json"), &config);
    (stored, widened)
}

#[test]
fn microscaled_experts_are_widened_on_the_fly() {
    let folder = tempfile::tempdir().unwrap();
    let (stored, widened) = microscaled(folder.path());
    let (ours, expected) = (f32_file(&stored, &folder.path().join("x")), f32_file(&widened, &folder.path().join("y")));
    assert_eq!(ours.keys, expected.keys);
    for (ours, expected) in ours.tensors.iter().zip(&expected.tensors) {
        assert!(ours.name == expected.name && ours.data == expected.data, "{}", ours.name);
    }
}
