//! Files of every level that llama.cpp writes, converted to checkpoints: each weight has the bits that ggml makes of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_interop::quantize;
use qhost_oracle::{Gguf, LEVELS, Level, TensorInfo, Value, dequantize, type_info};
use qhost_tests::{checkpoint::RandomLlama, command::Qhost};
use safetensors::SafeTensors;

/// The checkpoint that a file becomes.
fn convert(file: &Path, output: &Path) -> PathBuf {
    let qhost = Qhost::new(["convert", "--format", "safetensors", "--level", "F32", "--force", "--yes", "-o"]);
    let result = qhost.arg(output).arg(file).json();
    result["output_path"].as_str().unwrap().into()
}

/// The tensors of a checkpoint as the bits of floats.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bits = |data: &[u8]| data.as_chunks().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
    file.tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
            (name, bits(tensor.data()))
        })
        .collect()
}

/// What ggml makes of a file, in a checkpoint's names and order of rows.
fn expected(file: &Gguf) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    for tensor in &file.tensors {
        let weights = dequantize(tensor.ggml_type, &file.read(tensor).unwrap()).unwrap();
        let weights = weights.iter().map(|weight| weight.to_bits()).collect();
        for (name, weights) in checkpoint_tensors(file, tensor, weights) {
            assert!(all.insert(name, weights).is_none(), "{}", tensor.name);
        }
    }
    all
}

/// Names of a layer's matrices, by those of GGUF; `{}` is an expert.
const MODULES: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1"),
    ("ffn_down_exps", "block_sparse_moe.experts.{}.w2"),
    ("ffn_up_exps", "block_sparse_moe.experts.{}.w3"),
];

fn checkpoint_tensors(file: &Gguf, tensor: &TensorInfo, weights: Vec<u32>) -> Vec<(String, Vec<u32>)> {
    let heads = |key: &str| match file.value(&format!("llama.attention.{key}")) {
        Some(Value::U32(heads)) => usize::try_from(*heads).unwrap(),
        other => unreachable!("{key}: {other:?}"),
    };
    let parts: Vec<_> = tensor.name.split('.').collect();
    match parts[..] {
        ["token_embd", _] => vec![("model.embed_tokens.weight".into(), weights)],
        ["output_norm", _] => vec![("model.norm.weight".into(), weights)],
        ["output", _] => vec![("lm_head.weight".into(), weights)],
        ["blk", layer, module, _] => {
            let own = MODULES.iter().find(|(name, _)| *name == module).unwrap().1;
            let name = |expert: usize| format!("model.layers.{layer}.{own}.weight").replace("{}", &expert.to_string());
            let weights = match module {
                "attn_q" => in_order(&weights, heads("head_count"), tensor),
                "attn_k" => in_order(&weights, heads("head_count_kv"), tensor),
                _ => weights,
            };
            let experts = tensor.dims.get(2).map_or(1, |&experts| usize::try_from(experts).unwrap());
            let each = weights.chunks(weights.len() / experts);
            each.enumerate().map(|(expert, weights)| (name(expert), weights.to_vec())).collect()
        }
        _ => unreachable!("{}", tensor.name),
    }
}

/// Of each head the rows that are rotated with each other are neighbours in the file, and half a head apart in a checkpoint.
fn in_order(weights: &[u32], heads: usize, tensor: &TensorInfo) -> Vec<u32> {
    let width = usize::try_from(tensor.dims[0]).unwrap();
    let rows: Vec<_> = weights.chunks(width).collect();
    let ordered = rows.chunks(rows.len() / heads).flat_map(|head| {
        let (even, odd) = (head.iter().step_by(2), head.iter().skip(1).step_by(2));
        even.chain(odd).copied().collect::<Vec<_>>()
    });
    ordered.flatten().copied().collect()
}

/// Makes each level with llama.cpp, converts it, and compares; gives the names of the types that were seen.
fn assert_every_weight(llama: &RandomLlama, levels: &[Level]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("random");
    llama.write(&model);
    let base = quantize(&model, "F32", &folder.path().join("base"));
    let mut seen = Vec::new();
    for level in levels {
        let path = folder.path().join(format!("random-{}.gguf", level.name));
        level.quantize(&base, &path).unwrap();
        let file = Gguf::open(&path).unwrap();
        seen.extend(file.tensors.iter().map(|tensor| type_info(tensor.ggml_type).unwrap().name));
        let (ours, ggml) = (tensors(&convert(&path, &folder.path().join("converted"))), expected(&file));
        assert!(ours.keys().eq(ggml.keys()), "{}: {:?} are not {:?}", level.name, ours.keys(), ggml.keys());
        for (name, weights) in &ggml {
            assert!(ours[name] == *weights, "{}: the weights of {name} differ", level.name);
        }
        fs::remove_file(path).unwrap();
    }
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn every_level_of_llama_cpp_has_the_weights_that_ggml_makes_of_it() {
    let llama = RandomLlama { ffn: 256, layers: 2, heads: 8, kv_heads: 2, hostile: true, ..RandomLlama::default() };
    let seen = assert_every_weight(&llama, &LEVELS);
    let expected = [
        "bf16", "f16", "f32", "iq1_m", "iq1_s", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_s", "iq3_xxs", "iq4_nl", "iq4_xs",
        "mxfp4", "q1_0", "q2_0", "q2_K", "q3_K", "q4_0", "q4_1", "q4_K", "q5_0", "q5_1", "q5_K", "q6_K", "q8_0",
        "tq1_0", "tq2_0",
    ];
    assert_eq!(seen, expected);
}

/// Rows of 64 and 160 leave the types of 256 weights out, and one head to a key/value head leaves nothing to group.
#[test]
fn narrow_rows() {
    let llama = RandomLlama { hidden: 64, ffn: 160, heads: 4, kv_heads: 4, tied: true, ..RandomLlama::default() };
    let names = ["Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K_M", "IQ4_NL", "TQ2_0"];
    let levels: Vec<_> = names.iter().map(|name| Level::named(name).unwrap()).collect();
    drop(assert_every_weight(&llama, &levels));
}

/// A file has the matrices of all experts in one tensor.
#[test]
fn experts() {
    let llama = RandomLlama { layers: 2, experts: 4, ffn: 256, heads: 8, kv_heads: 2, ..RandomLlama::default() };
    let names = ["F16", "Q4_0", "Q3_K_M", "MXFP4_MOE", "IQ2_XS", "IQ4_XS"];
    let levels: Vec<_> = names.iter().map(|name| Level::named(name).unwrap()).collect();
    drop(assert_every_weight(&llama, &levels));
}
