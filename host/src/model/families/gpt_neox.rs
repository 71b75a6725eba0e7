//! GPT-NeoX and Pythia: fused attention head by head, both blocks side by side.

use qhost_plugin_api::documents::RoleKind::{
    AttentionOutput, AttentionQkv, FfnDown, FfnUp, OutputNorm, TokenEmbedding,
};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Ffn, Hidden, Q, Qkv, Vocab},
    Entry, Heads,
};
use crate::model::{Blocks, Forward, Fused, Norm};

pub(super) const FAMILY: Family = Family {
    id: "gpt_neox",
    model_types: &["gpt_neox"],
    architectures: &["GPTNeoXForCausalLM"],
    defaults: r#"{"rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": true, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}"#,
    heads: Heads::Equal,
    prologue: &[Entry::weight("gpt_neox.embed_in.weight", TokenEmbedding, &[Vocab, Hidden])],
    layer_prefix: "gpt_neox.layers.{}.",
    forward: Some(Forward {
        norm: Norm::Layer,
        blocks: Blocks::SideBySideIf("use_parallel_residual"),
        fused: Fused::Heads,
        ..Forward::LLAMA
    }),
    layer: &[
        INPUT_NORM,
        INPUT_NORM_BIAS,
        Entry::weight("attention.query_key_value.weight", AttentionQkv, &[Qkv, Hidden]),
        Entry::bias("attention.query_key_value.bias", AttentionQkv, &[Qkv]).or_absent(),
        Entry::weight("attention.dense.weight", AttentionOutput, &[Hidden, Q]),
        Entry::bias("attention.dense.bias", AttentionOutput, &[Hidden]).or_absent(),
        POST_ATTENTION_NORM,
        POST_ATTENTION_NORM_BIAS,
        Entry::weight("mlp.dense_h_to_4h.weight", FfnUp, &[Ffn, Hidden]),
        Entry::bias("mlp.dense_h_to_4h.bias", FfnUp, &[Ffn]),
        Entry::weight("mlp.dense_4h_to_h.weight", FfnDown, &[Hidden, Ffn]),
        Entry::bias("mlp.dense_4h_to_h.bias", FfnDown, &[Hidden]),
    ],
    epilogue: &[
        Entry::weight("gpt_neox.final_layer_norm.weight", OutputNorm, &[Hidden]),
        Entry::bias("gpt_neox.final_layer_norm.bias", OutputNorm, &[Hidden]),
        Entry::head("embed_out.weight"),
    ],
    buffers: &[FREQUENCIES, "attention.bias", "attention.masked_bias"],
    ..DECODER
};
