//! `DeepSeek` V2 and V3: latent attention, experts with shared ones, and dense layers at the start.

use qhost_plugin_api::documents::{
    Hyperparameters,
    RoleKind::{
        AttentionKvA, AttentionKvANorm, AttentionKvB, AttentionOutput, AttentionQ, AttentionQA, AttentionQANorm,
        AttentionQB, RouterCorrection, SharedDown, SharedGate, SharedUp,
    },
};

use super::{Family, names::*};
use crate::model::family::{
    Dim::{Experts, Hidden, LatentKv, LatentKvHeads, LatentKvRotated, LatentQ, LatentQHeads, LatentValues, SharedFfn},
    Entry, Heads,
};
use crate::model::{Forward, Pairs, Routing};

fn has_latent_queries(model: &Hyperparameters) -> bool {
    model.latent_attention.as_ref().is_some_and(|latent| latent.q_rank.is_some())
}

fn has_plain_queries(model: &Hyperparameters) -> bool {
    !has_latent_queries(model)
}

/// The correction of the router is V3's.
fn has_correction(model: &Hyperparameters) -> bool {
    model.experts.as_ref().is_some_and(|experts| experts.scoring != "softmax")
}

/// A layer of V2 and of V3.
const LAYER_OF_BOTH: &[Entry] = &[
    INPUT_NORM,
    Entry::weight("self_attn.q_proj.weight", AttentionQ, &[LatentQHeads, Hidden]).when(has_plain_queries),
    Entry::weight("self_attn.q_a_proj.weight", AttentionQA, &[LatentQ, Hidden]).when(has_latent_queries),
    Entry::bias("self_attn.q_a_proj.bias", AttentionQA, &[LatentQ]).or_absent(),
    Entry::weight("self_attn.q_a_layernorm.weight", AttentionQANorm, &[LatentQ]).when(has_latent_queries),
    Entry::weight("self_attn.q_b_proj.weight", AttentionQB, &[LatentQHeads, LatentQ]).when(has_latent_queries),
    Entry::weight("self_attn.kv_a_proj_with_mqa.weight", AttentionKvA, &[LatentKvRotated, Hidden]),
    Entry::bias("self_attn.kv_a_proj_with_mqa.bias", AttentionKvA, &[LatentKvRotated]).or_absent(),
    Entry::weight("self_attn.kv_a_layernorm.weight", AttentionKvANorm, &[LatentKv]),
    Entry::weight("self_attn.kv_b_proj.weight", AttentionKvB, &[LatentKvHeads, LatentKv]),
    Entry::weight("self_attn.o_proj.weight", AttentionOutput, &[Hidden, LatentValues]),
    O_BIAS.or_absent(),
    POST_ATTENTION_NORM,
    GATE_PROJ.where_dense(),
    UP_PROJ.where_dense(),
    DOWN_PROJ.where_dense(),
    GATE_BIAS.or_absent().where_dense(),
    UP_BIAS.or_absent().where_dense(),
    DOWN_BIAS.or_absent().where_dense(),
    ROUTER,
    Entry::bias("mlp.gate.e_score_correction_bias", RouterCorrection, &[Experts]).where_sparse().when(has_correction),
    EXPERT_GATE,
    EXPERT_UP,
    EXPERT_DOWN,
    SHARED_EXPERTS_GATE,
    SHARED_EXPERTS_UP,
    SHARED_EXPERTS_DOWN,
    Entry::bias("mlp.shared_experts.gate_proj.bias", SharedGate, &[SharedFfn]).where_sparse().or_absent(),
    Entry::bias("mlp.shared_experts.up_proj.bias", SharedUp, &[SharedFfn]).where_sparse().or_absent(),
    Entry::bias("mlp.shared_experts.down_proj.bias", SharedDown, &[Hidden]).where_sparse().or_absent(),
];

pub(super) const V2: Family = Family {
    id: "deepseek_v2",
    model_types: &["deepseek_v2"],
    architectures: &["DeepseekV2ForCausalLM"],
    defaults: r#"{
        "rms_norm_eps": 1e-6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "topk_method": "greedy", "routed_scaling_factor": 1.0
    }"#,
    scoring: Some("softmax"),
    heads: Heads::Latent,
    forward: Some(Forward { pairs: Pairs::Neighbours, routing: Routing::ByMethod, ..Forward::LLAMA }),
    layer: LAYER_OF_BOTH,
    ..DECODER
};

pub(super) const V3: Family = Family {
    id: "deepseek_v3",
    model_types: &["deepseek_v3"],
    architectures: &["DeepseekV3ForCausalLM"],
    defaults: r#"{
        "rms_norm_eps": 1e-6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": true,
        "rope_interleave": true
    }"#,
    scoring: Some("sigmoid"),
    heads: Heads::Latent,
    forward: Some(Forward { pairs: Pairs::NeighboursIf("rope_interleave"), ..Forward::LLAMA }),
    layer: LAYER_OF_BOTH,
    ..DECODER
};
