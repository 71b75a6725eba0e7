//! Qwen3 (dense): the layout of Llama with a norm on every query and key head.

use super::{Family, names::*};
use crate::model::family::Windows;

pub(super) const FAMILY: Family = Family {
    id: "qwen3",
    model_types: &["qwen3"],
    architectures: &["Qwen3ForCausalLM"],
    defaults: r#"{"head_dim": 128, "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28}"#,
    windows: Windows::FromLayer,
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
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    ..DECODER
};
