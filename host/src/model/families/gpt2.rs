//! GPT-2: learned positions, fused attention, and linears stored as `[in, out]`.

use qhost_plugin_api::documents::RoleKind::{
    AttentionNorm, AttentionOutput, AttentionQkv, FfnDown, FfnNorm, FfnUp, OutputNorm, PositionEmbedding,
    TokenEmbedding,
};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{self, Ffn, Hidden, Q, Qkv, Vocab},
    Entry, Heads, Positions,
};
use crate::model::{Forward, Norm, Scores};

pub(super) const FAMILY: Family = Family {
    id: "gpt2",
    model_types: &["gpt2"],
    architectures: &["GPT2LMHeadModel"],
    defaults: r#"{"tie_word_embeddings": true, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}"#,
    positions: Positions::Learned,
    heads: Heads::Equal,
    root: Some("transformer."),
    prologue: &[
        Entry::weight("transformer.wte.weight", TokenEmbedding, &[Vocab, Hidden]),
        Entry::weight("transformer.wpe.weight", PositionEmbedding, &[Dim::Positions, Hidden]),
    ],
    layer_prefix: "transformer.h.{}.",
    forward: Some(Forward { norm: Norm::Layer, scores: Scores::Gpt2, ..Forward::LLAMA }),
    layer: &[
        Entry::weight("ln_1.weight", AttentionNorm, &[Hidden]),
        Entry::bias("ln_1.bias", AttentionNorm, &[Hidden]),
        Entry::weight("attn.c_attn.weight", AttentionQkv, &[Hidden, Qkv]).transposed(),
        Entry::bias("attn.c_attn.bias", AttentionQkv, &[Qkv]),
        Entry::weight("attn.c_proj.weight", AttentionOutput, &[Q, Hidden]).transposed(),
        Entry::bias("attn.c_proj.bias", AttentionOutput, &[Hidden]),
        Entry::weight("ln_2.weight", FfnNorm, &[Hidden]),
        Entry::bias("ln_2.bias", FfnNorm, &[Hidden]),
        Entry::weight("mlp.c_fc.weight", FfnUp, &[Hidden, Ffn]).transposed(),
        Entry::bias("mlp.c_fc.bias", FfnUp, &[Ffn]),
        Entry::weight("mlp.c_proj.weight", FfnDown, &[Ffn, Hidden]).transposed(),
        Entry::bias("mlp.c_proj.bias", FfnDown, &[Hidden]),
    ],
    epilogue: &[
        Entry::weight("transformer.ln_f.weight", OutputNorm, &[Hidden]),
        Entry::bias("transformer.ln_f.bias", OutputNorm, &[Hidden]),
        LM_HEAD,
    ],
    buffers: &["attn.bias", "attn.masked_bias"],
    ..DECODER
};
