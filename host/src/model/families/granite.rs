//! Granite 3: the layout of Llama with multipliers in the config.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "granite",
    model_types: &["granite"],
    architectures: &["GraniteForCausalLM"],
    defaults: r#"{"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0}"#,
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
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
        GATE_BIAS.or_absent(),
        UP_BIAS.or_absent(),
        DOWN_BIAS.or_absent(),
    ],
    ..DECODER
};
