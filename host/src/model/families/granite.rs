//! Granite 3: the layout of Llama with multipliers in the config.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "granite",
    model_types: &["granite"],
    architectures: &["GraniteForCausalLM"],
    defaults: r#"{"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0}"#,
    layer: LLAMA_LAYER,
    ..DECODER
};
