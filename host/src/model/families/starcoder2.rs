//! `StarCoder2`: layer norms, biases, and a feed-forward block without a gate.

use qhost_plugin_api::documents::RoleKind::{FfnDown, FfnUp};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Ffn, Hidden},
    Entry, Windows,
};
use crate::model::{Forward, Norm};

pub(super) const FAMILY: Family = Family {
    id: "starcoder2",
    model_types: &["starcoder2"],
    architectures: &["Starcoder2ForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh"}"#,
    windows: Windows::All,
    forward: Some(Forward { norm: Norm::Layer, ..Forward::LLAMA }),
    layer: &[
        INPUT_NORM,
        INPUT_NORM_BIAS,
        Q_PROJ,
        Q_BIAS.or_absent(),
        K_PROJ,
        K_BIAS.or_absent(),
        V_PROJ,
        V_BIAS.or_absent(),
        O_PROJ,
        O_BIAS.or_absent(),
        POST_ATTENTION_NORM,
        POST_ATTENTION_NORM_BIAS,
        Entry::weight("mlp.c_fc.weight", FfnUp, &[Ffn, Hidden]),
        Entry::bias("mlp.c_fc.bias", FfnUp, &[Ffn]).or_absent(),
        Entry::weight("mlp.c_proj.weight", FfnDown, &[Hidden, Ffn]),
        Entry::bias("mlp.c_proj.bias", FfnDown, &[Hidden]).or_absent(),
    ],
    epilogue: &[FINAL_NORM, FINAL_NORM_BIAS, LM_HEAD],
    ..DECODER
};
