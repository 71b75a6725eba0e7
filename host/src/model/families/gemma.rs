//! Gemma: the layout of Llama, with heads of a width of their own and norms around 1 + weight.

use super::{Family, names::*};
use crate::model::{Factor, Forward, Gate, Norm};

pub(super) const FAMILY: Family = Family {
    id: "gemma",
    model_types: &["gemma"],
    architectures: &["GemmaForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh"}"#,
    forward: Some(Forward {
        norm: Norm::RmsPlusOne,
        embedding: Factor::RootOfWidth,
        gate: Gate::TanhProduct,
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
        POST_ATTENTION_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    ..DECODER
};
