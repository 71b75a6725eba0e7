//! Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts, and one shared expert behind a gate of its own.

use qhost_plugin_api::documents::RoleKind::SharedRouter;

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Hidden, One},
    Entry, Windows,
};

pub(super) const FAMILY: Family = Family {
    id: "qwen2_moe",
    model_types: &["qwen2_moe"],
    architectures: &["Qwen2MoeForCausalLM"],
    defaults: r#"{"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28}"#,
    windows: Windows::EveryOtherBefore,
    scoring: Some("softmax"),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS.or_absent(),
        K_BIAS.or_absent(),
        V_BIAS.or_absent(),
        POST_ATTENTION_NORM,
        GATE_PROJ.where_dense(),
        UP_PROJ.where_dense(),
        DOWN_PROJ.where_dense(),
        ROUTER,
        EXPERT_GATE,
        EXPERT_UP,
        EXPERT_DOWN,
        SHARED_EXPERT_GATE,
        SHARED_EXPERT_UP,
        SHARED_EXPERT_DOWN,
        Entry::weight("mlp.shared_expert_gate.weight", SharedRouter, &[One, Hidden]).where_sparse(),
    ],
    ..DECODER
};
