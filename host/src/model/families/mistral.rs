//! Mistral: the layout of Llama without biases; the window of its attention is in the config.

use super::{Family, names::*};
use crate::model::family::Windows;

pub(super) const FAMILY: Family = Family {
    id: "mistral",
    model_types: &["mistral"],
    architectures: &["MistralForCausalLM"],
    defaults: r#"{"sliding_window": 4096}"#,
    windows: Windows::All,
    layer: &[INPUT_NORM, Q_PROJ, K_PROJ, V_PROJ, O_PROJ, POST_ATTENTION_NORM, GATE_PROJ, UP_PROJ, DOWN_PROJ],
    ..DECODER
};
