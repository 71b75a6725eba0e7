//! Gemma 2: Gemma with norms on both sides of each block, windows in every other layer and soft caps.

use super::{Family, names::*};
use crate::model::family::Windows;
use crate::model::{Factor, Forward, Norm, Scores};

pub(super) const FAMILY: Family = Family {
    id: "gemma2",
    model_types: &["gemma2"],
    architectures: &["Gemma2ForCausalLM"],
    defaults: r#"{
        "tie_word_embeddings": true, "head_dim": 256, "sliding_window": 4096, "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window_pattern": 2,
        "hidden_activation": "gelu_pytorch_tanh"
    }"#,
    windows: Windows::AllButEvery(2),
    forward: Some(Forward {
        norm: Norm::RmsPlusOne,
        embedding: Factor::RootOfWidth,
        scores: Scores::RootOf("query_pre_attn_scalar"),
        score_cap: Some("attn_logit_softcapping"),
        logit_cap: Some("final_logit_softcapping"),
        refused: Some("use_bidirectional_attention"),
        ..Forward::LLAMA
    }),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS.or_absent(),
        K_BIAS.or_absent(),
        V_BIAS.or_absent(),
        O_BIAS.or_absent(),
        AFTER_ATTENTION_NORM,
        BEFORE_FFN_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
        AFTER_FFN_NORM,
    ],
    ..DECODER
};
