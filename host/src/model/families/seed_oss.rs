//! Seed-OSS: the layout of Llama with biases on queries, keys and values.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "seed_oss",
    model_types: &["seed_oss"],
    architectures: &["SeedOssForCausalLM"],
    defaults: r#"{"head_dim": 128}"#,
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
