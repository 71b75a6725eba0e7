//! `OLMo` 2: norms after the blocks instead of before them, and over all queries and keys.

use qhost_plugin_api::documents::RoleKind::{AttentionKNorm, AttentionQNorm};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Kv, Q},
    Entry,
};

pub(super) const FAMILY: Family = Family {
    id: "olmo2",
    model_types: &["olmo2"],
    architectures: &["Olmo2ForCausalLM"],
    layer: &[
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_BIAS.or_absent(),
        K_BIAS.or_absent(),
        V_BIAS.or_absent(),
        O_BIAS.or_absent(),
        Entry::weight("self_attn.q_norm.weight", AttentionQNorm, &[Q]),
        Entry::weight("self_attn.k_norm.weight", AttentionKNorm, &[Kv]),
        AFTER_ATTENTION_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
        AFTER_FFN_NORM,
    ],
    ..DECODER
};
