//! Mixtral: Mistral with experts in place of the feed-forward block.

use qhost_plugin_api::documents::RoleKind::{FfnDown, FfnGate, FfnUp, Router};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{ExpertFfn, Experts, Hidden},
    Entry, Windows,
};

pub(super) const FAMILY: Family = Family {
    id: "mixtral",
    model_types: &["mixtral"],
    architectures: &["MixtralForCausalLM"],
    defaults: r#"{"norm_topk_prob": true, "rope_theta": 1000000.0}"#,
    windows: Windows::All,
    scoring: Some("softmax"),
    layer: &[
        INPUT_NORM,
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        POST_ATTENTION_NORM,
        Entry::weight("block_sparse_moe.gate.weight", Router, &[Experts, Hidden]),
        Entry::weight("block_sparse_moe.experts.{}.w1.weight", FfnGate, &[ExpertFfn, Hidden]).of_each_expert(),
        Entry::weight("block_sparse_moe.experts.{}.w3.weight", FfnUp, &[ExpertFfn, Hidden]).of_each_expert(),
        Entry::weight("block_sparse_moe.experts.{}.w2.weight", FfnDown, &[Hidden, ExpertFfn]).of_each_expert(),
    ],
    ..DECODER
};
