//! Llama 1 to 3 and everything that copies its layout (Yi, `SmolLM2`, distillations, …).

use qhost_plugin_api::documents::RoleKind::{
    AttentionK, AttentionNorm, AttentionOutput, AttentionQ, AttentionV, FfnDown, FfnGate, FfnNorm, FfnUp, OutputNorm,
    TokenEmbedding,
};

use super::{Entry, Family, Ffn, Hidden, Kv, Q, TOKENS};

pub(super) const FAMILY: Family = Family {
    id: "llama",
    model_types: &["llama"],
    architectures: &["LlamaForCausalLM"],
    tied_by_default: false,
    prologue: &[Entry::required("model.embed_tokens.weight", TokenEmbedding, TOKENS)],
    layer_prefix: "model.layers.{}.",
    layer: &[
        Entry::required("input_layernorm.weight", AttentionNorm, &[Hidden]),
        Entry::required("self_attn.q_proj.weight", AttentionQ, &[Q, Hidden]),
        Entry::required("self_attn.k_proj.weight", AttentionK, &[Kv, Hidden]),
        Entry::required("self_attn.v_proj.weight", AttentionV, &[Kv, Hidden]),
        Entry::required("self_attn.o_proj.weight", AttentionOutput, &[Hidden, Q]),
        Entry::optional_bias("self_attn.q_proj.bias", AttentionQ, &[Q]),
        Entry::optional_bias("self_attn.k_proj.bias", AttentionK, &[Kv]),
        Entry::optional_bias("self_attn.v_proj.bias", AttentionV, &[Kv]),
        Entry::optional_bias("self_attn.o_proj.bias", AttentionOutput, &[Hidden]),
        Entry::required("post_attention_layernorm.weight", FfnNorm, &[Hidden]),
        Entry::required("mlp.gate_proj.weight", FfnGate, &[Ffn, Hidden]),
        Entry::required("mlp.up_proj.weight", FfnUp, &[Ffn, Hidden]),
        Entry::required("mlp.down_proj.weight", FfnDown, &[Hidden, Ffn]),
        Entry::optional_bias("mlp.gate_proj.bias", FfnGate, &[Ffn]),
        Entry::optional_bias("mlp.up_proj.bias", FfnUp, &[Ffn]),
        Entry::optional_bias("mlp.down_proj.bias", FfnDown, &[Hidden]),
    ],
    epilogue: &[Entry::required("model.norm.weight", OutputNorm, &[Hidden]), Entry::head("lm_head.weight")],
    buffers: &["rotary_emb.inv_freq"],
};
