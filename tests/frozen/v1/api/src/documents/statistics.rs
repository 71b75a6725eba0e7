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

/// What a unit's plan asks of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatisticsNeed {
    /// The group. In a unit without it, nothing is computed.
    pub group: InputGroup,
    /// What is wanted.
    pub what: Vec<Statistic>,
    /// In which precision sums of products are kept.
    #[serde(default)]
    pub precision: Precision,
    /// The most rows of a sample of the inputs.
    #[serde(default)]
    pub sample_rows: u64,
    /// What is done for an expert that saw fewer tokens than this.
    #[serde(default)]
    pub fewest_tokens: u64,
    /// How such an expert is treated.
    #[serde(default)]
    pub scarce: Scarce,
}

impl StatisticsNeed {
    /// A need of these statistics, in single precision, with each expert as it is.
    #[must_use]
    pub fn new(group: InputGroup, what: Vec<Statistic>) -> Self {
        Self { group, what, precision: Precision::Single, sample_rows: 0, fewest_tokens: 0, scarce: Scarce::AsItIs }
    }
}

/// A statistic of the input of a group, `[tokens, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Statistic {
    /// The Gram matrix `XᵀX`, a sum over tokens: `[width, width]`, symmetric.
    Gram,
    /// The mean of `|x|` of every column: `[1, width]` in `f32`.
    MeanAbs,
    /// The mean of `x²` of every column: `[1, width]` in `f32`.
    MeanSquare,
    /// Some of the rows, chosen evenly at random by a fixed seed: `[rows, width]` in `f32`.
    Sample,
    /// What the original model reads more than the one with substitutes, times what that reads, a sum over tokens:
    /// `Σ (x_original − x) xᵀ`, `[width, width]` in `f32`. An expert's is of the tokens that are sent to it here. What
    /// is within experts (`ffn_mid`) has none. A host has it that has `statistics/2`.
    Cross,
    /// What the original model's residual stream has more, where the output of the linear will be added, times what the
    /// linear reads: `Σ (r_original − r) xᵀ`, `[width of the stream, width]` in `f32`. Groups have it whose one linear's
    /// output is added to the stream as it is. A host has it that has `statistics/2`.
    Residual,
    /// One that was added to the API after this version.
    #[serde(other)]
    Other,
}

/// The precision of sums of products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Precision {
    /// `f32`.
    #[default]
    Single,
    /// `f64`.
    Double,
}

/// What is done for an expert that saw too few tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scarce {
    /// Its statistics are of the tokens that it saw, of none if there were none.
    #[default]
    AsItIs,
    /// Its statistics are of all tokens of the layer, as if all were sent to it.
    AllTokens,
}

/// The request of `get` of `statistics/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatisticsRequest {
    /// The group.
    pub group: InputGroup,
    /// What is wanted.
    pub what: Statistic,
    /// Of which expert, where each has its own input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u32>,
}

impl StatisticsRequest {
    /// A request for a statistic.
    #[must_use]
    pub fn new(group: InputGroup, what: Statistic, expert: Option<u32>) -> Self {
        Self { group, what, expert }
    }
}

/// The answer of `get`: where the numbers are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatisticsAnswer {
    /// A tensor that the unit lends.
    pub tensor: u32,
    /// Its rows.
    pub rows: u64,
    /// Elements of a row.
    pub row_elements: u64,
    /// Tokens that the statistic is of.
    pub tokens: u64,
    /// Whether they are all tokens because the expert saw too few.
    #[serde(default)]
    pub all_tokens: bool,
}

impl StatisticsAnswer {
    /// A statistic of so many tokens in a tensor.
    #[must_use]
    pub fn new(tensor: u32, rows: u64, row_elements: u64, tokens: u64) -> Self {
        Self { tensor, rows, row_elements, tokens, all_tokens: false }
    }
}

/// The request of `substitute` of `replay/1`: the operand has the whole tensor in `f32`; without an operand the
/// tensor is the checkpoint's again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubstituteRequest {
    /// The tensor.
    pub tensor: u32,
}

impl SubstituteRequest {
    /// A request about a tensor.
    #[must_use]
    pub fn new(tensor: u32) -> Self {
        Self { tensor }
    }
}

/// The request of `loss` of `replay/1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossRequest {
    /// The samples that are run, from the first on; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
}

impl LossRequest {
    /// A request about some samples.
    #[must_use]
    pub fn new(samples: Option<u64>) -> Self {
        Self { samples }
    }
}

/// The answer of `loss`: what the substitutes change at the unit's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossAnswer {
    /// Mean square of the difference.
    pub mean_square: f64,
    /// Mean square of the output of the original weights.
    pub original: f64,
}

impl LossAnswer {
    /// A loss.
    #[must_use]
    pub fn new(mean_square: f64, original: f64) -> Self {
        Self { mean_square, original }
    }
}
