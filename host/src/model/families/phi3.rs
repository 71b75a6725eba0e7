//! Phi-3, Phi-3.5, Phi-4 and their mini versions: the layout of Llama with fused matrices.

use qhost_plugin_api::documents::RoleKind::AttentionQkv;

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Hidden, Qkv},
    Entry, Windows,
};

pub(super) const FAMILY: Family = Family {
    id: "phi3",
    model_types: &["phi3"],
    architectures: &["Phi3ForCausalLM"],
    defaults: r#"{"original_max_position_embeddings": 4096}"#,
    windows: Windows::All,
    layer: &[
        INPUT_NORM,
        Entry::weight("self_attn.qkv_proj.weight", AttentionQkv, &[Qkv, Hidden]),
        O_PROJ,
        POST_ATTENTION_NORM,
        GATE_UP_PROJ,
        DOWN_PROJ,
    ],
    ..DECODER
};
