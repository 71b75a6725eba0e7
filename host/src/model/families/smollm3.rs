//! `SmolLM3`: the layout of Llama, with layers that rotate nothing.

use super::{Family, names::*};
use crate::model::family::Windows;
use crate::model::{Forward, Rotated};

pub(super) const FAMILY: Family = Family {
    id: "smollm3",
    model_types: &["smollm3"],
    architectures: &["SmolLM3ForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "no_rope_layer_interval": 4, "use_sliding_window": false, "rope_theta": 2000000.0}"#,
    windows: Windows::Unrotated,
    forward: Some(Forward { rotated: Rotated::Listed, ..Forward::LLAMA }),
    layer: LLAMA_LAYER,
    ..DECODER
};
