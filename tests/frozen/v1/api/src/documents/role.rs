//! What a tensor is for, in words that hold for every model family.
//!
//! The host's family tables turn checkpoint names into roles; plugins speak roles only. A role
//! knows nothing of names, shapes or dtypes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a tensor in the model.
///
/// The layer is not part of it: it is that of the tensor's unit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Role {
    /// What the module does.
    pub kind: RoleKind,
    /// Which parameter of the module.
    #[serde(default, skip_serializing_if = "Part::is_weight")]
    pub part: Part,
    /// The expert's index, where each expert has a tensor of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u32>,
}

impl Role {
    /// A part of a module.
    #[must_use]
    pub const fn new(kind: RoleKind, part: Part) -> Self {
        Self { kind, part, expert: None }
    }

    /// The weight of a module.
    #[must_use]
    pub const fn weight(kind: RoleKind) -> Self {
        Self::new(kind, Part::Weight)
    }

    /// The bias of a module.
    #[must_use]
    pub const fn bias(kind: RoleKind) -> Self {
        Self::new(kind, Part::Bias)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(expert) = self.expert {
            write!(f, "[{expert}]")?;
        }
        match self.part {
            Part::Weight => Ok(()),
            Part::Bias => f.write_str(".bias"),
            Part::Other => f.write_str(".other"),
        }
    }
}

/// Which parameter of a module a tensor is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The matrix, or the gain of a norm.
    #[default]
    Weight,
    /// What is added.
    Bias,
    /// A part added to the API after this version.
    #[serde(other)]
    Other,
}

impl Part {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_weight(&self) -> bool {
        *self == Self::Weight
    }
}

macro_rules! role_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a module does. A newer side may send a kind that this version does not know.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum RoleKind {
            $($(#[$doc])* $variant,)*
            /// A kind added to the API after this version, under its name.
            Other(String),
        }

        impl RoleKind {
            /// The name in documents, such as `attn_q`.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<String> for RoleKind {
            fn from(name: String) -> Self {
                match name.as_str() {
                    $($name => Self::$variant,)*
                    _ => Self::Other(name),
                }
            }
        }
    };
}

role_kinds! {
    /// Token embedding, rows are tokens.
    TokenEmbedding = "token_embd",
    /// Learned position embedding, rows are positions.
    PositionEmbedding = "position_embd",
    /// Output head, rows are tokens.
    Output = "output",
    /// Norm before the output head.
    OutputNorm = "output_norm",
    /// Norm before attention.
    AttentionNorm = "attn_norm",
    /// Query projection.
    AttentionQ = "attn_q",
    /// Key projection.
    AttentionK = "attn_k",
    /// Value projection.
    AttentionV = "attn_v",
    /// Output projection of attention.
    AttentionOutput = "attn_output",
    /// Query, key and value projections in one matrix; the order of its rows is the family's.
    AttentionQkv = "attn_qkv",
    /// Norm of each query head, or of all together.
    AttentionQNorm = "attn_q_norm",
    /// Norm of each key head, or of all together.
    AttentionKNorm = "attn_k_norm",
    /// A logit for each query head that takes part in the softmax over the keys.
    AttentionSinks = "attn_sinks",
    /// Latent attention: from the residual stream to the latent queries.
    AttentionQA = "attn_q_a",
    /// Latent attention: norm of the latent queries.
    AttentionQANorm = "attn_q_a_norm",
    /// Latent attention: from the latent queries to the queries.
    AttentionQB = "attn_q_b",
    /// Latent attention: from the residual stream to the latent keys and values, and the rotated key.
    AttentionKvA = "attn_kv_a",
    /// Latent attention: norm of the latent keys and values.
    AttentionKvANorm = "attn_kv_a_norm",
    /// Latent attention: from the latent keys and values to the keys and values of each head.
    AttentionKvB = "attn_kv_b",
    /// Norm after attention, before its result is added to the residual stream.
    AttentionPostNorm = "attn_post_norm",
    /// Norm before the feed-forward block.
    FfnNorm = "ffn_norm",
    /// Gate projection of the feed-forward block.
    FfnGate = "ffn_gate",
    /// Up projection of the feed-forward block.
    FfnUp = "ffn_up",
    /// Down projection of the feed-forward block.
    FfnDown = "ffn_down",
    /// Gate and up projections of the feed-forward block in one matrix, gate first.
    FfnGateUp = "ffn_gate_up",
    /// Norm after the feed-forward block, before its result is added to the residual stream.
    FfnPostNorm = "ffn_post_norm",
    /// What chooses experts, rows are experts.
    Router = "router",
    /// A number for each expert that is added for choosing alone.
    RouterCorrection = "router_correction",
    /// Gate and up projections of all experts in one tensor; their order is the family's.
    ExpertsGateUp = "experts_gate_up",
    /// Down projections of all experts in one tensor.
    ExpertsDown = "experts_down",
    /// Gate projection of the experts that every token uses.
    SharedGate = "shared_gate",
    /// Up projection of the experts that every token uses.
    SharedUp = "shared_up",
    /// Down projection of the experts that every token uses.
    SharedDown = "shared_down",
    /// What weighs the experts that every token uses.
    SharedRouter = "shared_router",
}

impl From<RoleKind> for String {
    fn from(kind: RoleKind) -> Self {
        match kind {
            RoleKind::Other(name) => name,
            known => known.name().to_owned(),
        }
    }
}
