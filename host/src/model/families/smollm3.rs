//! `SmolLM3`: the layout of Llama, with layers that rotate nothing.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "smollm3",
    model_types: &["smollm3"],
    architectures: &["SmolLM3ForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "no_rope_layer_interval": 4, "use_sliding_window": false}"#,
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
