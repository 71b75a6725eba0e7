//! `StableLM` 2 and 3B: the layout of Llama with layer norms; the 12B has both blocks side by side.

use super::{Family, names::*};
use crate::model::{Blocks, Forward, Norm};

pub(super) const FAMILY: Family = Family {
    id: "stablelm",
    model_types: &["stablelm", "stablelm_epoch"],
    architectures: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    defaults: r#"{"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5}"#,
    forward: Some(Forward {
        norm: Norm::Layer,
        blocks: Blocks::SideBySideIf("use_parallel_residual"),
        ..Forward::LLAMA
    }),
    layer: &[
        INPUT_NORM,
        INPUT_NORM_BIAS,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS.or_absent(),
        K_BIAS.or_absent(),
        V_BIAS.or_absent(),
        POST_ATTENTION_NORM.or_absent(),
        POST_ATTENTION_NORM_BIAS.or_absent(),
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    epilogue: &[FINAL_NORM, FINAL_NORM_BIAS, LM_HEAD],
    ..DECODER
};
