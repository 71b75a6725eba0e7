//! The names that transformers gives to the tensors of most decoders, with their roles and shapes.
//!
//! A family's table says which of them it has; what only one family has stands in its own file.

use qhost_plugin_api::documents::RoleKind::{
    AttentionK, AttentionKNorm, AttentionNorm, AttentionOutput, AttentionPostNorm, AttentionQ, AttentionQNorm,
    AttentionV, FfnDown, FfnGate, FfnGateUp, FfnNorm, FfnPostNorm, FfnUp, OutputNorm, Router, SharedDown, SharedGate,
    SharedUp, TokenEmbedding,
};

use crate::model::{
    Forward,
    family::{
        Dim::{ExpertFfn, Experts, Ffn, GateUp, Head, Hidden, Kv, Q, SharedFfn, Vocab},
        Entry, Family, Heads, Positions, Windows,
    },
};

/// A decoder with the usual names around its layers; a family says what is different.
pub(super) const DECODER: Family = Family {
    id: "",
    model_types: &[],
    architectures: &[],
    defaults: "{}",
    positions: Positions::Rotary,
    heads: Heads::Grouped,
    windows: Windows::None,
    scoring: None,
    forward: Some(Forward::LLAMA),
    prologue: &[EMBED_TOKENS],
    layer_prefix: LAYER,
    layer: &[],
    epilogue: &[FINAL_NORM, LM_HEAD],
    root: None,
    buffers: &[FREQUENCIES],
};

/// A layer of Llama, and of whatever copies its layout: biases are where the config says so.
pub(super) const LLAMA_LAYER: &[Entry] = &[
    INPUT_NORM,
    Q_PROJ,
    K_PROJ,
    V_PROJ,
    O_PROJ,
    Q_BIAS.or_absent(),
    K_BIAS.or_absent(),
    V_BIAS.or_absent(),
    O_BIAS.or_absent(),
    POST_ATTENTION_NORM,
    GATE_PROJ,
    UP_PROJ,
    DOWN_PROJ,
    GATE_BIAS.or_absent(),
    UP_BIAS.or_absent(),
    DOWN_BIAS.or_absent(),
];

/// Before the names of a layer's tensors.
pub(super) const LAYER: &str = "model.layers.{}.";

pub(super) const EMBED_TOKENS: Entry = Entry::weight("model.embed_tokens.weight", TokenEmbedding, &[Vocab, Hidden]);

pub(super) const INPUT_NORM: Entry = Entry::weight("input_layernorm.weight", AttentionNorm, &[Hidden]);
pub(super) const INPUT_NORM_BIAS: Entry = Entry::bias("input_layernorm.bias", AttentionNorm, &[Hidden]);
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

/// In the layout of Llama the norm after attention is the one before the feed-forward block.
pub(super) const POST_ATTENTION_NORM: Entry = Entry::weight("post_attention_layernorm.weight", FfnNorm, &[Hidden]);
pub(super) const POST_ATTENTION_NORM_BIAS: Entry = Entry::bias("post_attention_layernorm.bias", FfnNorm, &[Hidden]);
/// Where norms stand on both sides of the blocks, it is what it says.
pub(super) const AFTER_ATTENTION_NORM: Entry =
    Entry::weight("post_attention_layernorm.weight", AttentionPostNorm, &[Hidden]);
pub(super) const BEFORE_FFN_NORM: Entry = Entry::weight("pre_feedforward_layernorm.weight", FfnNorm, &[Hidden]);
pub(super) const AFTER_FFN_NORM: Entry = Entry::weight("post_feedforward_layernorm.weight", FfnPostNorm, &[Hidden]);

pub(super) const GATE_PROJ: Entry = Entry::weight("mlp.gate_proj.weight", FfnGate, &[Ffn, Hidden]);
pub(super) const UP_PROJ: Entry = Entry::weight("mlp.up_proj.weight", FfnUp, &[Ffn, Hidden]);
pub(super) const DOWN_PROJ: Entry = Entry::weight("mlp.down_proj.weight", FfnDown, &[Hidden, Ffn]);
pub(super) const GATE_UP_PROJ: Entry = Entry::weight("mlp.gate_up_proj.weight", FfnGateUp, &[GateUp, Hidden]);
pub(super) const GATE_BIAS: Entry = Entry::bias("mlp.gate_proj.bias", FfnGate, &[Ffn]);
pub(super) const UP_BIAS: Entry = Entry::bias("mlp.up_proj.bias", FfnUp, &[Ffn]);
pub(super) const DOWN_BIAS: Entry = Entry::bias("mlp.down_proj.bias", FfnDown, &[Hidden]);

pub(super) const ROUTER: Entry = Entry::weight("mlp.gate.weight", Router, &[Experts, Hidden]).where_sparse();
pub(super) const EXPERT_GATE: Entry =
    Entry::weight("mlp.experts.{}.gate_proj.weight", FfnGate, &[ExpertFfn, Hidden]).of_each_expert();
pub(super) const EXPERT_UP: Entry =
    Entry::weight("mlp.experts.{}.up_proj.weight", FfnUp, &[ExpertFfn, Hidden]).of_each_expert();
pub(super) const EXPERT_DOWN: Entry =
    Entry::weight("mlp.experts.{}.down_proj.weight", FfnDown, &[Hidden, ExpertFfn]).of_each_expert();

/// Whether there are experts that every token uses.
const fn shared(entry: Entry) -> Entry {
    entry.where_sparse().when(|model| model.experts.as_ref().is_some_and(|experts| experts.shared_ffn_size > 0))
}
pub(super) const SHARED_EXPERT_GATE: Entry =
    shared(Entry::weight("mlp.shared_expert.gate_proj.weight", SharedGate, &[SharedFfn, Hidden]));
pub(super) const SHARED_EXPERT_UP: Entry =
    shared(Entry::weight("mlp.shared_expert.up_proj.weight", SharedUp, &[SharedFfn, Hidden]));
pub(super) const SHARED_EXPERT_DOWN: Entry =
    shared(Entry::weight("mlp.shared_expert.down_proj.weight", SharedDown, &[Hidden, SharedFfn]));
pub(super) const SHARED_EXPERTS_GATE: Entry =
    shared(Entry::weight("mlp.shared_experts.gate_proj.weight", SharedGate, &[SharedFfn, Hidden]));
pub(super) const SHARED_EXPERTS_UP: Entry =
    shared(Entry::weight("mlp.shared_experts.up_proj.weight", SharedUp, &[SharedFfn, Hidden]));
pub(super) const SHARED_EXPERTS_DOWN: Entry =
    shared(Entry::weight("mlp.shared_experts.down_proj.weight", SharedDown, &[Hidden, SharedFfn]));

pub(super) const FINAL_NORM: Entry = Entry::weight("model.norm.weight", OutputNorm, &[Hidden]);
pub(super) const FINAL_NORM_BIAS: Entry = Entry::bias("model.norm.bias", OutputNorm, &[Hidden]);
pub(super) const LM_HEAD: Entry = Entry::head("lm_head.weight");

/// The rotation's frequencies, which old checkpoints store though they follow from the config.
pub(super) const FREQUENCIES: &str = "rotary_emb.inv_freq";
