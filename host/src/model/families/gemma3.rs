//! Gemma 3, its text part: Gemma 2 with norms on queries and keys, and without soft caps.

use super::{Family, names::*};
use crate::model::family::Windows;
use crate::model::{Factor, Forward, Norm, Scores};

pub(super) const FAMILY: Family = Family {
    id: "gemma3",
    model_types: &["gemma3_text"],
    architectures: &["Gemma3ForCausalLM"],
    defaults: r#"{
        "tie_word_embeddings": true, "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4, "sliding_window": 4096, "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh"
    }"#,
    windows: Windows::AllButEvery(6),
    forward: Some(Forward {
        norm: Norm::RmsPlusOne,
        embedding: Factor::RootOfWidth,
        scores: Scores::RootOf("query_pre_attn_scalar"),
        logit_cap: Some("final_logit_softcapping"),
        refused: Some("use_bidirectional_attention"),
        ..Forward::LLAMA
    }),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        Q_NORM,
        K_PROJ,
        K_NORM,
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
