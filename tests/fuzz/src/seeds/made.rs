//! Files that are written here byte for byte, as small as they can be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::joined;

/// A safetensors file of tensors: name, dtype, shape, bytes.
#[must_use]
pub fn weights(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A shared library for this machine with a manifest: an ELF file of three sections.
#[must_use]
pub fn library(manifest: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let names = b"\0.qhost\0.shstrtab\0";
    let (start, length) = (64 + 56, manifest.len() as u64);
    let sections = start + length + names.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // A shared library of version 1, with its program header behind this one.
    for half in [3_u16, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [0, 64, sections] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    // One segment with everything up to the sections' table.
    file.extend([1_u32, 4].map(u32::to_le_bytes).concat());
    file.extend([0, 0, 0, sections, sections, 4096].map(u64::to_le_bytes).concat());
    file.extend(manifest.as_bytes());
    file.extend(names);
    let mut section = |name: u32, kind: u32, offset: u64, size: u64| {
        file.extend([name, kind].map(u32::to_le_bytes).concat());
        file.extend([0, 0, offset, size].map(u64::to_le_bytes).concat());
        file.extend([0_u32, 0].map(u32::to_le_bytes).concat());
        file.extend([1_u64, 0].map(u64::to_le_bytes).concat());
    };
    section(0, 0, 0, 0);
    section(1, 1, start, length);
    section(8, 3, start + length, names.len() as u64);
    file
}

/// A value of a key of a GGUF file, with the number of its type.
enum Word<'a> {
    U32(u32),
    F32(f32),
    Text(&'a str),
    Texts(&'a [&'a str]),
    I32s(&'a [i32]),
}

impl Word<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        match self {
            Self::U32(value) => out.extend([4, *value].map(u32::to_le_bytes).concat()),
            Self::F32(value) => out.extend([6, value.to_bits()].map(u32::to_le_bytes).concat()),
            Self::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(out, value);
            }
            Self::Texts(values) => {
                out.extend([9_u32, 8].map(u32::to_le_bytes).concat());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(out, value));
            }
            Self::I32s(values) => {
                out.extend([9_u32, 5].map(u32::to_le_bytes).concat());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

/// A type of a GGUF file: its number, and the weights and bytes of a block.
type Block = (u32, u64, u64);

/// Types whose blocks are 32 weights at most: F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, BF16, MXFP4.
const SMALL: [Block; 10] = [
    (2, 32, 18),
    (8, 32, 34),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (20, 32, 18),
    (39, 32, 17),
    (30, 1, 2),
    (1, 1, 2),
    (0, 1, 4),
];

/// Types of super-blocks: Q2_K to Q6_K, those of the kinds IQ and TQ.
const LARGE: [Block; 16] = [
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (21, 256, 110),
    (22, 256, 82),
    (23, 256, 136),
    (29, 256, 56),
    (34, 256, 54),
    (35, 256, 66),
    (12, 256, 144),
];

/// GGUF files of a llama of one layer, whose tensors have all the types that hold weights in turn.
#[must_use]
pub fn gguf() -> Vec<Vec<u8>> {
    let of = |index: usize| {
        let small = SMALL.iter().cycle().skip(index).copied().take(7).collect::<Vec<_>>();
        one_gguf(&small, [LARGE[2 * index], LARGE[2 * index + 1]])
    };
    (0..LARGE.len() / 2).map(of).collect()
}

fn one_gguf(small: &[Block], [of_output, of_down]: [Block; 2]) -> Vec<u8> {
    let keys = [
        ("general.architecture", Word::Text("llama")),
        ("general.name", Word::Text("tiny")),
        ("general.file_type", Word::U32(7)),
        ("llama.block_count", Word::U32(1)),
        ("llama.context_length", Word::U32(64)),
        ("llama.embedding_length", Word::U32(32)),
        ("llama.feed_forward_length", Word::U32(256)),
        ("llama.attention.head_count", Word::U32(2)),
        ("llama.attention.head_count_kv", Word::U32(1)),
        ("llama.attention.key_length", Word::U32(128)),
        ("llama.attention.value_length", Word::U32(128)),
        ("llama.rope.dimension_count", Word::U32(128)),
        ("llama.rope.freq_base", Word::F32(10_000.0)),
        ("llama.attention.layer_norm_rms_epsilon", Word::F32(1e-5)),
        ("tokenizer.ggml.model", Word::Text("gpt2")),
        ("tokenizer.ggml.pre", Word::Text("default")),
        ("tokenizer.ggml.tokens", Word::Texts(&["a", "b", "ab", "<s>"])),
        ("tokenizer.ggml.token_type", Word::I32s(&[1, 1, 1, 3])),
        ("tokenizer.ggml.merges", Word::Texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id", Word::U32(3)),
        ("tokenizer.ggml.eos_token_id", Word::U32(3)),
        ("tokenizer.chat_template", Word::Text("{{ messages }}")),
    ];
    let matrices = [
        ("token_embd.weight", 32, 4, small[0]),
        ("blk.0.attn_q.weight", 32, 256, small[1]),
        ("blk.0.attn_k.weight", 32, 128, small[2]),
        ("blk.0.attn_v.weight", 32, 128, small[3]),
        ("blk.0.attn_output.weight", 256, 32, of_output),
        ("blk.0.ffn_gate.weight", 32, 256, small[4]),
        ("blk.0.ffn_up.weight", 32, 256, small[5]),
        ("blk.0.ffn_down.weight", 256, 32, of_down),
        ("output.weight", 32, 4, small[6]),
    ];
    let norms = ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"];
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((matrices.len() as u64 + norms.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in &keys {
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(key.as_bytes());
        value.put(&mut file);
    }
    let mut data = 0_u64;
    let mut describe = |name: &str, dimensions: &[u64], number: u32, bytes: u64| {
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(u32::try_from(dimensions.len()).unwrap_or(0).to_le_bytes());
        for dimension in dimensions {
            file.extend(dimension.to_le_bytes());
        }
        file.extend(number.to_le_bytes());
        file.extend(data.to_le_bytes());
        data += bytes.next_multiple_of(32);
    };
    for (name, columns, rows, (number, weights, bytes)) in matrices {
        describe(name, &[columns, rows], number, rows * columns / weights * bytes);
    }
    for name in norms {
        describe(name, &[32], 0, 128);
    }
    let start = file.len().next_multiple_of(32);
    file.resize(start, 0);
    // Zeros are sound rows of every type.
    file.resize(start + usize::try_from(data).unwrap_or(0), 0);
    file
}

/// A folder of packed weights of a llama of one layer: its config with these settings, and a weight file with these
/// tensors of every linear of 32 inputs and outputs (ending, dtype, shape, bytes).
#[must_use]
pub(super) fn packed(settings: &Value, parts: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1,
        "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1,
        "vocab_size": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": true, "quantization_config": settings});
    let mut tensors: BTreeMap<String, (&str, &[u64], Vec<u8>)> = BTreeMap::new();
    tensors.insert("model.embed_tokens.weight".into(), ("F16", &[4, 32], vec![0; 256]));
    for norm in ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"] {
        tensors.insert(format!("{norm}.weight"), ("F16", &[32], vec![0; 64]));
    }
    let linears = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
    for linear in linears {
        for (ending, dtype, shape, bytes) in parts {
            tensors.insert(format!("model.layers.0.{linear}_proj.{ending}"), (dtype, shape, bytes.clone()));
        }
    }
    let tensors: Vec<_> =
        tensors.iter().map(|(name, (dtype, shape, bytes))| (name.as_str(), *dtype, *shape, bytes.clone())).collect();
    joined(&[config.to_string().as_bytes(), b"", &weights(&tensors)])
}
