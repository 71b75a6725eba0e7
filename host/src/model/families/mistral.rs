//! Mistral: the layout of Llama without biases; the window of its attention is in the config.

use qhost_plugin_api::documents::RoleKind::{
    AttentionK, AttentionNorm, AttentionOutput, AttentionQ, AttentionV, FfnDown, FfnGate, FfnNorm, FfnUp, OutputNorm,
    TokenEmbedding,
};

use super::{Entry, Family, Ffn, Hidden, Kv, Q, TOKENS};

pub(super) const FAMILY: Family = Family {
    id: "mistral",
    model_types: &["mistral"],
    architectures: &["MistralForCausalLM"],
    tied_by_default: false,
    prologue: &[Entry::required("model.embed_tokens.weight", TokenEmbedding, TOKENS)],
    layer_prefix: "model.layers.{}.",
    layer: &[
        Entry::required("input_layernorm.weight", AttentionNorm, &[Hidden]),
        Entry::required("self_attn.q_proj.weight", AttentionQ, &[Q, Hidden]),
        Entry::required("self_attn.k_proj.weight", AttentionK, &[Kv, Hidden]),
        Entry::required("self_attn.v_proj.weight", AttentionV, &[Kv, Hidden]),
        Entry::required("self_attn.o_proj.weight", AttentionOutput, &[Hidden, Q]),
        Entry::required("post_attention_layernorm.weight", FfnNorm, &[Hidden]),
        Entry::required("mlp.gate_proj.weight", FfnGate, &[Ffn, Hidden]),
        Entry::required("mlp.up_proj.weight", FfnUp, &[Ffn, Hidden]),
        Entry::required("mlp.down_proj.weight", FfnDown, &[Hidden, Ffn]),
    ],
    epilogue: &[Entry::required("model.norm.weight", OutputNorm, &[Hidden]), Entry::head("lm_head.weight")],
    buffers: &["rotary_emb.inv_freq"],
};
