//! The names that transformers gives to the tensors of most decoders, with their roles and shapes.
//!
//! A family's table says which of them it has; what only one family has stands in its own file.

use qhost_plugin_api::documents::RoleKind::{
    AttentionK, AttentionKNorm, AttentionNorm, AttentionOutput, AttentionQ, AttentionQNorm, AttentionV, FfnDown,
    FfnGate, FfnNorm, FfnUp, OutputNorm, TokenEmbedding,
};

use crate::model::family::{
    Dim::{Ffn, Head, Hidden, Kv, Q, Vocab},
    Entry,
};

/// Before the names of a layer's tensors.
pub(super) const LAYER: &str = "model.layers.{}.";

pub(super) const EMBED_TOKENS: Entry = Entry::weight("model.embed_tokens.weight", TokenEmbedding, &[Vocab, Hidden]);

pub(super) const INPUT_NORM: Entry = Entry::weight("input_layernorm.weight", AttentionNorm, &[Hidden]);
pub(super) const Q_PROJ: Entry = Entry::weight("self_attn.q_proj.weight", AttentionQ, &[Q, Hidden]);
pub(super) const K_PROJ: Entry = Entry::weight("self_attn.k_proj.weight", AttentionK, &[Kv, Hidden]);
pub(super) const V_PROJ: Entry = Entry::weight("self_attn.v_proj.weight", AttentionV, &[Kv, Hidden]);
pub(super) const O_PROJ: Entry = Entry::weight("self_attn.o_proj.weight", AttentionOutput, &[Hidden, Q]);
pub(super) const Q_BIAS: Entry = Entry::bias("self_attn.q_proj.bias", AttentionQ, &[Q]);
pub(super) const K_BIAS: Entry = Entry::bias("self_attn.k_proj.bias", AttentionK, &[Kv]);
pub(super) const V_BIAS: Entry = Entry::bias("self_attn.v_proj.bias", AttentionV, &[Kv]);
pub(super) const O_BIAS: Entry = Entry::bias("self_attn.o_proj.bias", AttentionOutput, &[Hidden]);
pub(super) const Q_NORM: Entry = Entry::weight("self_attn.q_norm.weight", AttentionQNorm, &[Head]);
pub(super) const K_NORM: Entry = Entry::weight("self_attn.k_norm.weight", AttentionKNorm, &[Head]);

pub(super) const POST_ATTENTION_NORM: Entry = Entry::weight("post_attention_layernorm.weight", FfnNorm, &[Hidden]);
pub(super) const GATE_PROJ: Entry = Entry::weight("mlp.gate_proj.weight", FfnGate, &[Ffn, Hidden]);
pub(super) const UP_PROJ: Entry = Entry::weight("mlp.up_proj.weight", FfnUp, &[Ffn, Hidden]);
pub(super) const DOWN_PROJ: Entry = Entry::weight("mlp.down_proj.weight", FfnDown, &[Hidden, Ffn]);
pub(super) const GATE_BIAS: Entry = Entry::bias("mlp.gate_proj.bias", FfnGate, &[Ffn]);
pub(super) const UP_BIAS: Entry = Entry::bias("mlp.up_proj.bias", FfnUp, &[Ffn]);
pub(super) const DOWN_BIAS: Entry = Entry::bias("mlp.down_proj.bias", FfnDown, &[Hidden]);

pub(super) const FINAL_NORM: Entry = Entry::weight("model.norm.weight", OutputNorm, &[Hidden]);
pub(super) const LM_HEAD: Entry = Entry::head("lm_head.weight");

/// The rotation's frequencies, which old checkpoints store though they follow from the config.
pub(super) const FREQUENCIES: &str = "rotary_emb.inv_freq";
