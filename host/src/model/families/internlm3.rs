//! `InternLM` 3: the layout of Llama with biases where the config says so.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "internlm3",
    model_types: &["internlm3"],
    architectures: &["InternLM3ForCausalLM"],
    layer: LLAMA_LAYER,
    ..DECODER
};
