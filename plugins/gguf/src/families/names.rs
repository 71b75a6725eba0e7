//! What each role is called in GGUF.

use qhost_plugin_api::documents::{
    Part, Role, RoleKind,
    RoleKind::{
        AttentionK, AttentionKNorm, AttentionKvA, AttentionKvANorm, AttentionNorm, AttentionOutput, AttentionPostNorm,
        AttentionQ, AttentionQA, AttentionQANorm, AttentionQB, AttentionQNorm, AttentionQkv, AttentionSinks,
        AttentionV, ExpertsDown, FfnDown, FfnGate, FfnGateUp, FfnNorm, FfnPostNorm, FfnUp, Output, OutputNorm,
        PositionEmbedding, Router, RouterCorrection, SharedDown, SharedGate, SharedRouter, SharedUp, TokenEmbedding,
    },
};

use super::Family;

/// Every module that has a name.
pub(super) const ALL: &[RoleKind] = &[
    TokenEmbedding,
    PositionEmbedding,
    Output,
    OutputNorm,
    AttentionNorm,
    AttentionQ,
    AttentionK,
    AttentionV,
    AttentionQkv,
    AttentionOutput,
    AttentionQNorm,
    AttentionKNorm,
    AttentionSinks,
    AttentionQA,
    AttentionQANorm,
    AttentionQB,
    AttentionKvA,
    AttentionKvANorm,
    AttentionPostNorm,
    FfnNorm,
    FfnPostNorm,
    FfnGate,
    FfnUp,
    FfnGateUp,
    FfnDown,
    Router,
    RouterCorrection,
    ExpertsDown,
    SharedGate,
    SharedUp,
    SharedDown,
    SharedRouter,
];

/// The name of a module, without its layer.
pub(super) fn module(role: &Role, family: &Family) -> Option<&'static str> {
    let of_expert = role.expert.is_some();
    Some(match role.kind {
        TokenEmbedding => "token_embd",
        PositionEmbedding => "position_embd",
        Output => "output",
        OutputNorm => "output_norm",
        AttentionNorm => "attn_norm",
        AttentionQ => "attn_q",
        AttentionK => "attn_k",
        AttentionV => "attn_v",
        AttentionQkv => "attn_qkv",
        AttentionOutput => "attn_output",
        AttentionQNorm => "attn_q_norm",
        AttentionKNorm => "attn_k_norm",
        AttentionSinks => "attn_sinks",
        AttentionQA => "attn_q_a",
        AttentionQANorm => "attn_q_a_norm",
        AttentionQB => "attn_q_b",
        AttentionKvA => "attn_kv_a_mqa",
        AttentionKvANorm => "attn_kv_a_norm",
        AttentionPostNorm => "post_attention_norm",
        FfnNorm => family.ffn_norm,
        FfnPostNorm => "post_ffw_norm",
        FfnGate if of_expert => "ffn_gate_exps",
        FfnUp if of_expert => "ffn_up_exps",
        FfnDown if of_expert => "ffn_down_exps",
        FfnGate => "ffn_gate",
        FfnUp | FfnGateUp => "ffn_up",
        FfnDown => "ffn_down",
        Router => "ffn_gate_inp",
        RouterCorrection => "exp_probs_b",
        ExpertsDown => "ffn_down_exps",
        SharedGate => "ffn_gate_shexp",
        SharedUp => "ffn_up_shexp",
        SharedDown => "ffn_down_shexp",
        SharedRouter => "ffn_gate_inp_shexp",
        _ => return None,
    })
}

/// The ending of a parameter's name.
pub(super) fn ending(part: Part) -> Option<&'static str> {
    match part {
        Part::Weight => Some("weight"),
        Part::Bias => Some("bias"),
        _ => None,
    }
}
