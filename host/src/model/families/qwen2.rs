//! Qwen2 and Qwen2.5 (dense): the layout of Llama with biases on queries, keys and values.

use super::{Family, names::*};
use crate::model::family::Windows;

pub(super) const FAMILY: Family = Family {
    id: "qwen2",
    model_types: &["qwen2"],
    architectures: &["Qwen2ForCausalLM"],
    defaults: r#"{"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28}"#,
    windows: Windows::FromLayer,
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS,
        K_BIAS,
        V_BIAS,
        POST_ATTENTION_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    ..DECODER
};
