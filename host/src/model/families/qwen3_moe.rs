//! Qwen3 with experts.

use super::{Family, names::*};
use crate::model::family::Windows;

pub(super) const FAMILY: Family = Family {
    id: "qwen3_moe",
    model_types: &["qwen3_moe"],
    architectures: &["Qwen3MoeForCausalLM"],
    defaults: r#"{"use_sliding_window": false, "sliding_window": 4096}"#,
    windows: Windows::All,
    scoring: Some("softmax"),
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
        POST_ATTENTION_NORM,
        GATE_PROJ.where_dense(),
        UP_PROJ.where_dense(),
        DOWN_PROJ.where_dense(),
        ROUTER,
        EXPERT_GATE,
        EXPERT_UP,
        EXPERT_DOWN,
    ],
    ..DECODER
};
