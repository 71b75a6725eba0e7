//! Qwen2 and Qwen2.5 (dense): the layout of Llama with biases on queries, keys and values.

use super::{Family, names::*};

pub(super) const FAMILY: Family = Family {
    id: "qwen2",
    model_types: &["qwen2"],
    architectures: &["Qwen2ForCausalLM"],
    tied_by_default: false,
    prologue: &[EMBED_TOKENS],
    layer_prefix: LAYER,
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        Q_BIAS,
        K_PROJ,
        K_BIAS,
        V_PROJ,
        V_BIAS,
        O_PROJ,
        POST_ATTENTION_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    epilogue: &[FINAL_NORM, LM_HEAD],
    buffers: &[FREQUENCIES],
};
