//! What a plan asks of the activations, and what the host answers: the documents of `statistics/1` and
//! `replay/1`.
//!
//! They name groups of linears that share an input; the numbers themselves are lent as tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RoleKind;

macro_rules! input_groups {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $($kind:ident)|+,)*) => {
        /// The linears of a unit that share an input, named by that input.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum InputGroup {
            $($(#[$doc])* $variant,)*
            /// A group added to the API after this version, under its name.
            Other(String),
        }

        impl InputGroup {
            /// The name in documents, such as `attn_in`.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }

            /// The group that a linear belongs to; none for what is no linear, and for a head.
            #[must_use]
            pub fn of(kind: &RoleKind) -> Option<Self> {
                match kind {
                    $($(RoleKind::$kind)|+ => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl From<String> for InputGroup {
            fn from(name: String) -> Self {
                match name.as_str() {
                    $($name => Self::$variant,)*
                    _ => Self::Other(name),
                }
            }
        }
    };
}

input_groups! {
    /// What attention reads: queries, keys and values, or what they are made from.
    AttentionIn = "attn_in": AttentionQ | AttentionK | AttentionV | AttentionQkv | AttentionQA | AttentionKvA,
    /// Latent queries, after their norm.
    AttentionQB = "attn_q_b_in": AttentionQB,
    /// Latent keys and values, after their norm.
    AttentionKvB = "attn_kv_b_in": AttentionKvB,
    /// What the heads of attention give.
    AttentionOut = "attn_out_in": AttentionOutput,
    /// What the feed-forward block reads; for an expert, the tokens that were sent to it.
    FfnIn = "ffn_in": FfnGate | FfnUp | FfnGateUp | ExpertsGateUp | Router | SharedGate | SharedUp | SharedRouter,
    /// What the down projection reads, of an expert too.
    FfnMid = "ffn_mid": FfnDown | ExpertsDown,
    /// What the down projection of the experts reads that every token uses.
    SharedMid = "shared_mid": SharedDown,
    /// What the head reads.
    OutputIn = "output_in": Output,
}

impl From<InputGroup> for String {
    fn from(group: InputGroup) -> Self {
        match group {
            InputGroup::Other(name) => name,
            known => known.name().to_owned(),
        }
    }
}

impl fmt::Display for InputGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
