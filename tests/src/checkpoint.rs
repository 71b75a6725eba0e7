//! Making checkpoints: random llamas of any size, with whatever may be hard about weights.
//!
//! The same settings give the same bytes. The weights mean nothing.
#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a test that cannot make its input has failed")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::fixture;

/// A llama with random weights.
#[derive(Debug, Clone)]
pub struct RandomLlama {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the feed-forward block.
    pub ffn: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Rows of the embedding; the tokenizer has 512 pieces.
    pub vocabulary: usize,
    /// Whether the head reuses the embedding.
    pub tied: bool,
    /// Experts in place of each feed-forward block, of the family mixtral; 0 for a plain llama.
    pub experts: usize,
    /// How weights are stored.
    pub dtype: Dtype,
    /// Weight files.
    pub shards: usize,
    /// Whether there are dead rows, outliers, signed zeros, denormals and huge values among the weights.
    pub hostile: bool,
    /// Whether every weight is a number of f16 as well, if it is not stored with more bits than bf16 has.
    pub halves: bool,
    /// Other weights for another seed.
    pub seed: u64,
}

impl Default for RandomLlama {
    fn default() -> Self {
        Self {
            hidden: 256,
            ffn: 512,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            vocabulary: VOCABULARY,
            tied: false,
            experts: 0,
            dtype: Dtype::BF16,
            shards: 1,
            hostile: false,
            halves: false,
            seed: 0,
        }
    }
}

/// The tokenizer that random llamas get: 512 pieces.
const TOKENIZER: &str = "stories260K";
const VOCABULARY: usize = 512;

impl RandomLlama {
    /// The `config.json`.
    #[must_use]
    pub fn config(&self) -> Value {
        let (class, family) =
            if self.experts > 0 { ("MixtralForCausalLM", "mixtral") } else { ("LlamaForCausalLM", "llama") };
        let mut config = json!({
            "architectures": [class],
            "model_type": family,
            "hidden_act": "silu",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        if self.experts > 0 {
            config["num_local_experts"] = self.experts.into();
            config["num_experts_per_tok"] = 2.into();
        }
        config
    }

    /// Names and shapes of the tensors, in the order in which they are stored.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let kv = self.hidden / self.heads * self.kv_heads;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, self.hidden])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm.weight", vec![self.hidden]),
                ("self_attn.q_proj.weight", vec![self.hidden, self.hidden]),
                ("self_attn.k_proj.weight", vec![kv, self.hidden]),
                ("self_attn.v_proj.weight", vec![kv, self.hidden]),
                ("self_attn.o_proj.weight", vec![self.hidden, self.hidden]),
                ("post_attention_layernorm.weight", vec![self.hidden]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}"), shape));
            }
            tensors.extend(self.feed_forward(layer));
        }
        tensors.push(("model.norm.weight".into(), vec![self.hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".into(), vec![self.vocabulary, self.hidden]));
        }
        tensors
    }

    fn feed_forward(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (wide, narrow) = (vec![self.ffn, self.hidden], vec![self.hidden, self.ffn]);
        if self.experts == 0 {
            let name = |module: &str| format!("model.layers.{layer}.mlp.{module}_proj.weight");
            return vec![(name("gate"), wide.clone()), (name("up"), wide), (name("down"), narrow)];
        }
        let name = |rest: &str| format!("model.layers.{layer}.block_sparse_moe.{rest}.weight");
        let mut tensors = vec![(name("gate"), vec![self.experts, self.hidden])];
        for expert in 0..self.experts {
            for (module, shape) in [("w1", &wide), ("w2", &narrow), ("w3", &wide)] {
                tensors.push((name(&format!("experts.{expert}.{module}")), shape.clone()));
            }
        }
        tensors
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let elements: usize = self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        elements * self.dtype.bitsize() / 8
    }

    /// Writes the checkpoint into `folder`, which is made if it is not there.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        write_json(&folder.join("config.json"), &self.config());
        for name in ["tokenizer.model", "tokenizer_config.json"] {
            let copied = fs::copy(fixture(TOKENIZER).join(name), folder.join(name));
            copied.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let tensors = self.tensors();
        let lazy = tensors.iter().zip(0..).map(|((name, shape), index)| {
            (name.clone(), Lazy { llama: self, shape: shape.clone(), stream: self.seed << 32 | index })
        });
        let lazy: Vec<_> = lazy.collect();
        if self.shards == 1 {
            write_safetensors(&folder.join("model.safetensors"), &lazy);
            return;
        }
        let mut weight_map = BTreeMap::new();
        for (shard, part) in lazy.chunks(lazy.len().div_ceil(self.shards)).enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, self.shards);
            write_safetensors(&folder.join(&file), part);
            weight_map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone())));
        }
        let index = json!({"metadata": {"total_size": self.bytes()}, "weight_map": weight_map});
        write_json(&folder.join("model.safetensors.index.json"), &index);
    }
}

/// Writes a JSON file.
pub fn write_json(path: &Path, value: &Value) {
    fs::write(path, format!("{value:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Writes rows of tokens that every fixture's vocabulary has into a file in `folder`; gives its path.
#[must_use]
pub fn random_rows(folder: &Path) -> PathBuf {
    let path = folder.join("calibration.jsonl");
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 300
    };
    let rows: Vec<_> = (0..4)
        .map(|_| {
            let tokens: Vec<_> = (0..32).map(|_| next()).collect();
            format!("{{\"input_ids\": {tokens:?}}}\n")
        })
        .collect();
    // In one step: a run that was started before may be reading them.
    let draft = folder.join("calibration.draft");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&draft, rows.concat()));
    let written = written.and_then(|()| fs::rename(&draft, &path));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Copies a checkpoint folder, so that a test may spoil it.
#[must_use]
pub fn copy_of(source: &Path, folder: &Path) -> PathBuf {
    let target = folder.join(source.file_name().unwrap_or_default());
    fs::create_dir_all(&target).unwrap_or_else(|error| panic!("{}: {error}", target.display()));
    let entries = fs::read_dir(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    for entry in entries.flatten() {
        let copied = fs::copy(entry.path(), target.join(entry.file_name()));
        copied.unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
    }
    target
}

/// A tensor that is made when it is written, so that a large checkpoint never is in memory.
struct Lazy<'a> {
    llama: &'a RandomLlama,
    shape: Vec<usize>,
    stream: u64,
}

fn write_safetensors(path: &Path, tensors: &[(String, Lazy<'_>)]) {
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(metadata), path);
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

impl View for &Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.llama.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut random = Random(self.stream);
        let row = self.shape.last().copied().unwrap_or(1).max(1);
        let elements: usize = self.shape.iter().product();
        let mut bytes = Vec::with_capacity(elements * self.llama.dtype.bitsize() / 8);
        for index in 0..elements {
            // Norms are around 1; a model whose norms are 0 would be dead.
            let plain = if self.shape.len() == 1 { 1.0 + random.normal() * 0.1 } else { random.normal() * 0.02 };
            // Below, the steps of f16 are larger than those of bf16.
            let plain = if self.llama.halves && plain.abs() < 2.0_f32.powi(-17) { 0.0 } else { plain };
            let value = if self.llama.hostile { hostile(plain, index / row, &mut random) } else { plain };
            match self.llama.dtype {
                Dtype::F32 => bytes.extend(value.to_le_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f32(value.clamp(-65504.0, 65504.0)).to_le_bytes()),
                _ => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.llama.dtype.bitsize() / 8
    }
}

/// Makes a row, or a value here and there, hard to quantise.
fn hostile(value: f32, row: usize, random: &mut Random) -> f32 {
    match row % 16 {
        3 => return 0.0,
        5 => return -0.0,
        7 => return value * 1e-37,
        9 => return value * 1e-30,
        11 => return value.signum() * 0.5,
        _ => {}
    }
    match random.next() % 512 {
        0 => value * 1000.0,
        1 => value * 1e5,
        2 => -0.0,
        3 => f32::from_bits(1),
        4 => value * 1e-20,
        _ => value,
    }
}

/// Numbers that look random and are the same for the same start (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    /// Close to normal with deviation 1: the sum of four uniform numbers.
    #[expect(clippy::cast_precision_loss, reason = "16 bits")]
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum::<u64>() as f32;
        // Four uniform numbers of 0..65535 have the mean 131070 and the deviation 37837.
        (sum - 131_070.0) / 37_837.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_numbers_of_f16_and_others_are_not_all() {
        for halves in [true, false] {
            let llama = RandomLlama { halves, ..RandomLlama::default() };
            let tensor = &Lazy { llama: &llama, shape: vec![512, 512], stream: 1 };
            let data = tensor.data();
            let weights = data.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
            let exact = |weight: &f32| f16::from_f32(*weight).to_f32().to_bits() == weight.to_bits();
            assert_eq!(weights.filter(exact).count() == 512 * 512, halves);
        }
    }
}
