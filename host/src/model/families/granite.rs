//! Granite 3: the layout of Llama with multipliers in the config.

use super::{Family, names::*};
use crate::model::{Factor, Forward, Scores};

pub(super) const FAMILY: Family = Family {
    id: "granite",
    model_types: &["granite"],
    architectures: &["GraniteForCausalLM"],
    defaults: r#"{"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0}"#,
    forward: Some(Forward {
        embedding: Factor::Key("embedding_multiplier"),
        residual: Factor::Key("residual_multiplier"),
        logits: Factor::By("logits_scaling"),
        scores: Scores::Key("attention_multiplier"),
        ..Forward::LLAMA
    }),
    layer: LLAMA_LAYER,
    ..DECODER
};
