//! Seed-OSS: the layout of Llama with biases on queries, keys and values.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "seed_oss",
    model_types: &["seed_oss"],
    architectures: &["SeedOssForCausalLM"],
    defaults: r#"{"head_dim": 128}"#,
    layer: LLAMA_LAYER,
    ..DECODER
};
