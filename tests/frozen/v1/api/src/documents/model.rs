//! The model as the host understands it: units, tensors with roles, hyperparameters, companions.
//!
//! It holds no weights and no paths. Plugins only read it; `new` is for hosts, and for tests
//! ([`sdk::testing`](crate::sdk::testing) makes a whole model with weights).

use serde::{Deserialize, Serialize};

use super::{Fold, Role};

/// A model, as handed to a plugin for planning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// A name for people and for file names, such as the folder's or the repository's.
    pub name: String,
    /// The family whose table gave the roles, such as `llama`.
    pub family: String,
    /// The checkpoint's `config.json`: of a multimodal checkpoint with the keys of the text part on top,
    /// and completed by what the family assumes for keys that are left out.
    pub config: serde_json::Value,
    /// What the family table read from `config`, under the same names for every family.
    pub hyperparameters: Hyperparameters,
    /// The units, in the order of the data flow.
    pub units: Vec<UnitInfo>,
    /// The tensors; a tensor's id is its index.
    pub tensors: Vec<SourceTensor>,
    /// The companion files (tokenizer, chat template, generation config, …) that
    /// [`Files`](crate::abi::Files) gives.
    pub companions: Vec<SourceFile>,
    /// Where the inputs of linears may be scaled channel by channel, and where not: every group of every unit is in one
    /// of them, with each expert's own. Empty from hosts that do not tell, and of models whose arithmetic is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folds: Vec<Fold>,
}

impl Model {
    /// A model without units, tensors and companions, which are to be filled in.
    pub fn new(name: impl Into<String>, family: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            family: family.into(),
            config: serde_json::Value::Null,
            hyperparameters: Hyperparameters::default(),
            units: Vec::new(),
            tensors: Vec::new(),
            companions: Vec::new(),
            folds: Vec::new(),
        }
    }

    /// The number of parameters: the elements of all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(SourceTensor::elements).sum()
    }
}

/// The granule of work and of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnitInfo {
    /// Names the unit everywhere.
    pub id: u32,
    /// What it is.
    pub kind: UnitKind,
    /// The decoder layer's index, for kind `layer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
}

impl UnitInfo {
    /// A unit that is no decoder layer.
    #[must_use]
    pub fn new(id: u32, kind: UnitKind) -> Self {
        Self { id, kind, layer: None }
    }

    /// A decoder layer.
    #[must_use]
    pub fn layer(id: u32, layer: u32) -> Self {
        Self { id, kind: UnitKind::Layer, layer: Some(layer) }
    }
}

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitKind {
    /// Before the first layer: embeddings.
    Prologue,
    /// One decoder layer.
    Layer,
    /// After the last layer: the final norm and the head.
    Epilogue,
    /// A kind added to the API after this version.
    #[serde(other)]
    Other,
}

/// One tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceTensor {
    /// The name in the checkpoint, for messages.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The unit that it belongs to.
    pub unit: u32,
    /// How an element is stored: a safetensors dtype name (`BF16`, `F16`, `F32`).
    pub dtype: String,
    /// The shape, outermost dimension first; for a linear `[out, in]`.
    pub shape: Vec<u64>,
    /// Whether a linear is stored as `[in, out]` instead, so that a row belongs to one input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
}

impl SourceTensor {
    /// A tensor of the unit `unit`.
    pub fn new(name: impl Into<String>, role: Role, unit: u32, dtype: impl Into<String>, shape: Vec<u64>) -> Self {
        Self { name: name.into(), role, unit, dtype: dtype.into(), shape, transposed: false }
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Elements in a row: the last dimension.
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows: all dimensions but the last.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}

/// A companion file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceFile {
    /// Its name, relative to the model.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

impl SourceFile {
    /// A file of this name and length.
    pub fn new(name: impl Into<String>, bytes: u64) -> Self {
        Self { name: name.into(), bytes }
    }
}

/// A family's settings under names that do not depend on the family; absent means that the family
/// or the checkpoint does not have it.
///
/// It gets more fields: make one with `..Hyperparameters::default()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hyperparameters {
    /// Number of decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Inner width of the feed-forward block.
    pub ffn_size: u64,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u64,
    /// Whether `config.json` states `head_dim` itself.
    pub head_dim_explicit: bool,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Longest context the model was made for, in tokens.
    pub context_length: u64,
    /// Epsilon of the norms.
    pub norm_epsilon: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Window of sliding attention in tokens, where it is in use.
    pub sliding_window: Option<u64>,
    /// For each layer whether it uses the window; empty if all do, or none.
    pub windowed_layers: Vec<bool>,
    /// The activation function of the feed-forward block, under transformers' name.
    pub activation: String,
    /// Routed experts.
    pub experts: Option<Experts>,
    /// Latent attention.
    pub latent_attention: Option<LatentAttention>,
    /// Whether the head reuses the embedding.
    pub tied_embeddings: bool,
}

/// A mixture of experts. It gets more fields: make one with `..Experts::default()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Experts {
    /// Experts in a layer.
    pub count: u32,
    /// Experts that a token is sent to.
    pub used: u32,
    /// Inner width of one expert.
    pub ffn_size: u64,
    /// How many experts every token uses; none where the family has them and does not count them.
    pub shared_count: Option<u32>,
    /// Inner width of all experts that every token uses, together; 0 without any.
    pub shared_ffn_size: u64,
    /// For each layer whether it has experts.
    pub layers: Vec<bool>,
    /// Whether the weights of the chosen experts are scaled to sum up to 1.
    pub normalized: bool,
    /// What the weights of the chosen experts are multiplied with.
    pub scale: f64,
    /// How a router's logits become scores: `softmax` or `sigmoid`.
    pub scoring: String,
    /// Groups of experts, of which some are chosen first.
    pub groups: Option<u32>,
    /// Groups that are chosen.
    pub groups_used: Option<u32>,
}

/// Multi-head latent attention (DeepSeek-V2, section 2.1). It gets more fields: make one with
/// `..LatentAttention::default()`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatentAttention {
    /// Width of the latent queries; none where queries are made at once.
    pub q_rank: Option<u64>,
    /// Width of the latent keys and values.
    pub kv_rank: u64,
    /// Elements of a query or key head that are not rotated.
    pub unrotated: u64,
    /// Elements of a query or key head that are rotated.
    pub rotated: u64,
    /// Elements of a value head.
    pub value: u64,
}

/// Rotary position embedding. It gets more fields: make one with `..Rope::default()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// `default`, or the name of the scaling (`linear`, `llama3`, `yarn`, …).
    pub kind: String,
    /// Elements of a head that are rotated; 0 without rotary embedding.
    pub dimensions: u64,
    /// Base of the frequencies in layers with a window, where it is another.
    pub local_theta: Option<f64>,
    /// The scaling's parameters as the checkpoint states them.
    pub parameters: serde_json::Map<String, serde_json::Value>,
}
