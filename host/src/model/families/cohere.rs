//! Command R and Aya: both blocks side by side behind one norm, neighbours rotated.

use qhost_plugin_api::documents::RoleKind::{AttentionKNorm, AttentionQNorm};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Head, Heads, KvHeads},
    Entry,
};
use crate::model::{Blocks, Factor, Forward, Norm, Pairs};

pub(super) const FAMILY: Family = Family {
    id: "cohere",
    model_types: &["cohere"],
    architectures: &["CohereForCausalLM"],
    defaults: r#"{"tie_word_embeddings": true, "logit_scale": 0.0625, "use_qk_norm": false, "layer_norm_eps": 1e-5,
        "rope_theta": 500000.0}"#,
    forward: Some(Forward {
        norm: Norm::Layer,
        logits: Factor::Key("logit_scale"),
        blocks: Blocks::SideBySide,
        pairs: Pairs::Neighbours,
        ..Forward::LLAMA
    }),
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
        Entry::weight("self_attn.q_norm.weight", AttentionQNorm, &[Heads, Head]).or_absent(),
        Entry::weight("self_attn.k_norm.weight", AttentionKNorm, &[KvHeads, Head]).or_absent(),
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
    ],
    ..DECODER
};
