//! gpt-oss: experts in stacked tensors with interleaved gate and up, attention sinks, windows in every other layer.

use qhost_plugin_api::documents::RoleKind::{AttentionSinks, ExpertsDown, ExpertsGateUp, Router};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{ExpertFfn, ExpertGateUp, Experts, Heads, Hidden},
    Entry, Windows,
};
use crate::model::{Forward, Gate};

pub(super) const FAMILY: Family = Family {
    id: "gpt_oss",
    model_types: &["gpt_oss"],
    architectures: &["GptOssForCausalLM"],
    defaults: r#"{"head_dim": 64, "sliding_window": 128, "norm_topk_prob": true, "sliding_window_pattern": 2,
        "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "rope_theta": 150000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096}}"#,
    windows: Windows::AllButEvery(2),
    scoring: Some("softmax"),
    forward: Some(Forward { gate: Gate::Bounded, ..Forward::LLAMA }),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        Q_BIAS.or_absent(),
        K_PROJ,
        K_BIAS.or_absent(),
        V_PROJ,
        V_BIAS.or_absent(),
        O_PROJ,
        O_BIAS.or_absent(),
        Entry::weight("self_attn.sinks", AttentionSinks, &[Heads]),
        POST_ATTENTION_NORM,
        Entry::weight("mlp.router.weight", Router, &[Experts, Hidden]),
        Entry::bias("mlp.router.bias", Router, &[Experts]),
        Entry::weight("mlp.experts.gate_up_proj", ExpertsGateUp, &[Experts, Hidden, ExpertGateUp]).transposed(),
        Entry::bias("mlp.experts.gate_up_proj_bias", ExpertsGateUp, &[Experts, ExpertGateUp]),
        Entry::weight("mlp.experts.down_proj", ExpertsDown, &[Experts, ExpertFfn, Hidden]).transposed(),
        Entry::bias("mlp.experts.down_proj_bias", ExpertsDown, &[Experts, Hidden]),
    ],
    ..DECODER
};
