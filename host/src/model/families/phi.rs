//! Phi-1, Phi-1.5 and Phi-2: attention and feed-forward block side by side, layer norms, biases everywhere.

use qhost_plugin_api::documents::RoleKind::{
    AttentionKNorm, AttentionOutput, AttentionQNorm, FfnDown, FfnUp, Output, OutputNorm,
};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Ffn, Head, Hidden, Q, Vocab},
    Entry,
};
use crate::model::{Blocks, Forward, Norm};

pub(super) const FAMILY: Family = Family {
    id: "phi",
    model_types: &["phi"],
    architectures: &["PhiForCausalLM"],
    defaults: r#"{"partial_rotary_factor": 0.5, "hidden_act": "gelu_new"}"#,
    forward: Some(Forward { norm: Norm::Layer, blocks: Blocks::SideBySide, ..Forward::LLAMA }),
    layer: &[
        INPUT_NORM,
        INPUT_NORM_BIAS,
        Q_PROJ,
        Q_BIAS,
        K_PROJ,
        K_BIAS,
        V_PROJ,
        V_BIAS,
        Entry::weight("self_attn.q_layernorm.weight", AttentionQNorm, &[Head]).or_absent(),
        Entry::bias("self_attn.q_layernorm.bias", AttentionQNorm, &[Head]).or_absent(),
        Entry::weight("self_attn.k_layernorm.weight", AttentionKNorm, &[Head]).or_absent(),
        Entry::bias("self_attn.k_layernorm.bias", AttentionKNorm, &[Head]).or_absent(),
        Entry::weight("self_attn.dense.weight", AttentionOutput, &[Hidden, Q]),
        Entry::bias("self_attn.dense.bias", AttentionOutput, &[Hidden]),
        Entry::weight("mlp.fc1.weight", FfnUp, &[Ffn, Hidden]),
        Entry::bias("mlp.fc1.bias", FfnUp, &[Ffn]),
        Entry::weight("mlp.fc2.weight", FfnDown, &[Hidden, Ffn]),
        Entry::bias("mlp.fc2.bias", FfnDown, &[Hidden]),
    ],
    epilogue: &[
        Entry::weight("model.final_layernorm.weight", OutputNorm, &[Hidden]),
        Entry::bias("model.final_layernorm.bias", OutputNorm, &[Hidden]),
        LM_HEAD,
        Entry::bias("lm_head.bias", Output, &[Vocab]),
    ],
    ..DECODER
};
