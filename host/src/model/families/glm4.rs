//! GLM-4 (0414): norms on both sides of each block, fused gate and up, neighbours rotated in half of each head.

use qhost_plugin_api::documents::RoleKind::{AttentionPostNorm, FfnPostNorm};

use super::{Family, names::*};
use crate::model::family::{Dim::Hidden, Entry};
use crate::model::{Forward, Pairs};

pub(super) const FAMILY: Family = Family {
    id: "glm4",
    model_types: &["glm4"],
    architectures: &["Glm4ForCausalLM"],
    defaults: r#"{"partial_rotary_factor": 0.5}"#,
    forward: Some(Forward { pairs: Pairs::Neighbours, ..Forward::LLAMA }),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS.or_absent(),
        K_BIAS.or_absent(),
        V_BIAS.or_absent(),
        Entry::weight("post_self_attn_layernorm.weight", AttentionPostNorm, &[Hidden]),
        POST_ATTENTION_NORM,
        GATE_UP_PROJ,
        DOWN_PROJ,
        Entry::weight("post_mlp_layernorm.weight", FfnPostNorm, &[Hidden]),
    ],
    ..DECODER
};
