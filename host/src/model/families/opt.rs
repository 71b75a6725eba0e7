//! OPT: learned positions that begin with the third row.

use qhost_plugin_api::documents::RoleKind::{
    AttentionNorm, AttentionOutput, FfnDown, FfnNorm, FfnUp, OutputNorm, PositionEmbedding, TokenEmbedding,
};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Ffn, Hidden, PositionsAndTwo, Q, Vocab},
    Entry, Heads, Positions,
};
use crate::model::{Blocks, Forward, Norm};

pub(super) const FAMILY: Family = Family {
    id: "opt",
    model_types: &["opt"],
    architectures: &["OPTForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "layer_norm_eps": 1e-5, "do_layer_norm_before": true,
        "activation_function": "relu"}"#,
    positions: Positions::Learned,
    heads: Heads::Equal,
    root: Some("model."),
    prologue: &[
        Entry::weight("model.decoder.embed_tokens.weight", TokenEmbedding, &[Vocab, Hidden]),
        Entry::weight("model.decoder.embed_positions.weight", PositionEmbedding, &[PositionsAndTwo, Hidden]),
    ],
    layer_prefix: "model.decoder.layers.{}.",
    forward: Some(Forward { norm: Norm::Layer, blocks: Blocks::NormFirstIf("do_layer_norm_before"), ..Forward::LLAMA }),
    layer: &[
        Entry::weight("self_attn_layer_norm.weight", AttentionNorm, &[Hidden]),
        Entry::bias("self_attn_layer_norm.bias", AttentionNorm, &[Hidden]),
        Q_PROJ,
        Q_BIAS.or_absent(),
        K_PROJ,
        K_BIAS.or_absent(),
        V_PROJ,
        V_BIAS.or_absent(),
        Entry::weight("self_attn.out_proj.weight", AttentionOutput, &[Hidden, Q]),
        Entry::bias("self_attn.out_proj.bias", AttentionOutput, &[Hidden]).or_absent(),
        Entry::weight("final_layer_norm.weight", FfnNorm, &[Hidden]),
        Entry::bias("final_layer_norm.bias", FfnNorm, &[Hidden]),
        Entry::weight("fc1.weight", FfnUp, &[Ffn, Hidden]),
        Entry::bias("fc1.bias", FfnUp, &[Ffn]).or_absent(),
        Entry::weight("fc2.weight", FfnDown, &[Hidden, Ffn]),
        Entry::bias("fc2.bias", FfnDown, &[Hidden]).or_absent(),
    ],
    epilogue: &[
        Entry::weight("model.decoder.final_layer_norm.weight", OutputNorm, &[Hidden]).or_absent(),
        Entry::bias("model.decoder.final_layer_norm.bias", OutputNorm, &[Hidden]).or_absent(),
        LM_HEAD,
    ],
    buffers: &[],
    ..DECODER
};
