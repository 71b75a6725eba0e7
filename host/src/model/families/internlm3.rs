//! `InternLM` 3: the layout of Llama with biases where the config says so.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "internlm3",
    model_types: &["internlm3"],
    architectures: &["InternLM3ForCausalLM"],
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
