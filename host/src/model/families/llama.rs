//! Llama 1 to 3 and everything that copies its layout (Yi, `SmolLM2`, distillations, …).

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "llama",
    model_types: &["llama"],
    architectures: &["LlamaForCausalLM"],
    layer: LLAMA_LAYER,
    ..DECODER
};
