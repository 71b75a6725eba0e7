//! A model with its weights in memory.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use crate::{
    abi::DType,
    documents::{
        Fold, FoldSource, FoldedNorm, FoldedRows, Hyperparameters, InputGroup, Model, Role, RoleKind, Rope, RowMap,
        SourceFile, SourceTensor, UnitInfo, UnitKind,
    },
};

/// A model, its weights and its companion files.
#[derive(Debug, Clone)]
pub struct TestModel {
    /// What a plugin is told. Tensors and companions are added by the functions below.
    pub model: Model,
    pub(super) weights: Arc<Vec<Weights>>,
    pub(super) companions: BTreeMap<String, Vec<u8>>,
}

/// The bytes of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) dtype: DType,
    pub(super) bytes: Vec<u8>,
}

impl TestModel {
    /// A model without anything in it.
    pub fn new(name: impl Into<String>, family: impl Into<String>) -> Self {
        Self { model: Model::new(name, family), weights: Arc::default(), companions: BTreeMap::new() }
    }

    /// A small model of the family `llama` with weights that look like noise: embedding, `layers`
    /// decoder layers and a head. Heads are 32 wide, each with keys and values of its own; `hidden` is a multiple of 32.
    pub fn llama(layers: u32, hidden: u64, ffn: u64, vocabulary: u64) -> Self {
        let mut made = Self::llama_outline(layers, hidden, ffn, vocabulary);
        let tensors = made.model.tensors.iter().zip(0..);
        made.weights = Arc::new(tensors.map(|(tensor, seed)| Weights::noise(tensor.elements(), seed)).collect());
        made
    }

    /// The same without weights: it can be planned, and nothing more. So it may be as large as no model is.
    pub(super) fn llama_outline(layers: u32, hidden: u64, ffn: u64, vocabulary: u64) -> Self {
        let mut made = Self::new("test", "llama");
        let heads = u32::try_from(hidden / 32).unwrap_or(1).max(1);
        made.model.hyperparameters = Hyperparameters {
            layers,
            hidden_size: hidden,
            ffn_size: ffn,
            heads,
            kv_heads: heads,
            head_dim: 32,
            vocab_size: vocabulary,
            context_length: 512,
            norm_epsilon: 1e-5,
            rope: Rope { theta: 10_000.0, kind: "default".into(), dimensions: 32, ..Rope::default() },
            activation: "silu".into(),
            ..Hyperparameters::default()
        };
        made.model.config = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
        });
        made.model.units.push(UnitInfo::new(0, UnitKind::Prologue));
        made.outline("model.embed_tokens", RoleKind::TokenEmbedding, 0, &[vocabulary, hidden]);
        for layer in 0..layers {
            let unit = layer + 1;
            made.model.units.push(UnitInfo::layer(unit, layer));
            let tensors: [(&str, RoleKind, &[u64]); 9] = [
                ("input_layernorm", RoleKind::AttentionNorm, &[hidden]),
                ("self_attn.q_proj", RoleKind::AttentionQ, &[hidden, hidden]),
                ("self_attn.k_proj", RoleKind::AttentionK, &[hidden, hidden]),
                ("self_attn.v_proj", RoleKind::AttentionV, &[hidden, hidden]),
                ("self_attn.o_proj", RoleKind::AttentionOutput, &[hidden, hidden]),
                ("post_attention_layernorm", RoleKind::FfnNorm, &[hidden]),
                ("mlp.gate_proj", RoleKind::FfnGate, &[ffn, hidden]),
                ("mlp.up_proj", RoleKind::FfnUp, &[ffn, hidden]),
                ("mlp.down_proj", RoleKind::FfnDown, &[hidden, ffn]),
            ];
            let first = u32::try_from(made.model.tensors.len()).unwrap_or(u32::MAX);
            for (name, kind, shape) in tensors {
                made.outline(&format!("model.layers.{layer}.{name}"), kind, unit, shape);
            }
            let norm = |of: u32| FoldSource::Norm(FoldedNorm::new(first + of, None));
            let rows =
                |of: u32, channels| FoldSource::Rows(FoldedRows::new(first + of, None, RowMap::in_order(0, channels)));
            let folds: [(InputGroup, &[u32], u64, FoldSource); 4] = [
                (InputGroup::AttentionIn, &[1, 2, 3], hidden, norm(0)),
                (InputGroup::AttentionOut, &[4], hidden, rows(3, hidden)),
                (InputGroup::FfnIn, &[6, 7], hidden, norm(5)),
                (InputGroup::FfnMid, &[8], ffn, rows(7, ffn)),
            ];
            made.model.folds.extend(folds.map(|(group, readers, channels, source)| {
                let readers = readers.iter().map(|of| first + of).collect();
                Fold::new(unit, group, readers, channels, source)
            }));
        }
        made.model.units.push(UnitInfo::new(layers + 1, UnitKind::Epilogue));
        let norm = made.outline("model.norm", RoleKind::OutputNorm, layers + 1, &[hidden]);
        let head = made.outline("lm_head", RoleKind::Output, layers + 1, &[vocabulary, hidden]);
        let norm = FoldSource::Norm(FoldedNorm::new(norm, None));
        made.model.folds.push(Fold::new(layers + 1, InputGroup::OutputIn, vec![head], hidden, norm));
        made
    }

    /// Adds a tensor, stored as `F32`, and gives its id.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        role: Role,
        unit: u32,
        shape: &[u64],
        values: impl IntoIterator<Item = f32>,
    ) -> u32 {
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        self.stored_tensor(SourceTensor::new(name, role, unit, "F32", shape.to_vec()), DType::F32, bytes)
    }

    /// Adds a tensor as it is stored, and gives its id.
    pub fn stored_tensor(&mut self, tensor: SourceTensor, dtype: DType, bytes: Vec<u8>) -> u32 {
        let id = u32::try_from(self.model.tensors.len()).unwrap_or(u32::MAX);
        self.model.tensors.push(tensor);
        Arc::make_mut(&mut self.weights).push(Weights { dtype, bytes });
        id
    }

    /// Gives a tensor other values, stored as `F32`; nothing happens if there is no such tensor.
    pub fn set_values(&mut self, tensor: u32, values: impl IntoIterator<Item = f32>) {
        let index = tensor as usize;
        if let Some(weights) = Arc::make_mut(&mut self.weights).get_mut(index) {
            self.model.tensors[index].dtype = "F32".into();
            *weights = Weights { dtype: DType::F32, bytes: values.into_iter().flat_map(f32::to_le_bytes).collect() };
        }
    }

    /// The values of a tensor that is stored as `F32`.
    pub(super) fn floats(&self, tensor: u32) -> Vec<f32> {
        let stored = self.weights.get(tensor as usize).map_or(&[][..], |weights| &weights.bytes);
        stored.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// Adds a companion file.
    pub fn companion(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let (name, bytes) = (name.into(), bytes.into());
        self.model.companions.push(SourceFile::new(name.clone(), bytes.len() as u64));
        self.companions.insert(name, bytes);
    }

    /// Adds a weight that is yet to be filled.
    fn outline(&mut self, name: &str, kind: RoleKind, unit: u32, shape: &[u64]) -> u32 {
        let tensor = SourceTensor::new(format!("{name}.weight"), Role::weight(kind), unit, "F32", shape.to_vec());
        self.stored_tensor(tensor, DType::F32, Vec::new())
    }
}

impl Weights {
    fn noise(elements: u64, seed: u64) -> Self {
        let values = (0..elements).zip(noise(seed)).map(|(_, value)| value);
        Self { dtype: DType::F32, bytes: values.flat_map(f32::to_le_bytes).collect() }
    }
}

/// Values without end that lie evenly between -0.1 and 0.1; the same in every run.
pub(super) fn noise(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [.., low, high] = state.to_le_bytes();
        (f32::from(u16::from_le_bytes([low, high])) / 65_536.0 - 0.5) / 5.0
    })
}
