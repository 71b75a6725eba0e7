//! What a family computes, as data: whatever its tensors and sizes do not tell already.
//!
//! The reference is transformers' eager arithmetic in `f32`. Keys are those of `config.json`.

use serde_json::Value;

/// How a family's decoder computes.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// The norms, those of heads too.
    pub norm: Norm,
    /// What embeddings are multiplied with.
    pub embedding: Factor,
    /// What the result of a block is multiplied with before it is added to the stream.
    pub residual: Factor,
    /// What logits are multiplied with.
    pub logits: Factor,
    /// The key of the logits' soft cap.
    pub logit_cap: Option<&'static str>,
    /// What attention scores are multiplied with.
    pub scores: Scores,
    /// The key of the scores' soft cap.
    pub score_cap: Option<&'static str>,
    /// How the blocks follow each other.
    pub blocks: Blocks,
    /// Which numbers of a head are rotated together.
    pub pairs: Pairs,
    /// Which layers rotate.
    pub rotated: Rotated,
    /// How queries, keys and values stand in one matrix.
    pub fused: Fused,
    /// How gate and up are combined.
    pub gate: Gate,
    /// How experts are chosen.
    pub routing: Routing,
    /// A key that must not be true, because what it asks for is not computed here.
    pub refused: Option<&'static str>,
}

impl Forward {
    /// What Llama computes, and most others.
    pub const LLAMA: Self = Self {
        norm: Norm::Rms,
        embedding: Factor::One,
        residual: Factor::One,
        logits: Factor::One,
        logit_cap: None,
        scores: Scores::Head,
        score_cap: None,
        blocks: Blocks::InTurn,
        pairs: Pairs::Halves,
        rotated: Rotated::All,
        fused: Fused::Parts,
        gate: Gate::Product,
        routing: Routing::Usual,
        refused: None,
    };
}

/// A norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// By the root of the mean square.
    Rms,
    /// The same, and the stored gain is what is added to 1.
    RmsPlusOne,
    /// By the standard deviation, around the mean.
    Layer,
}

/// A constant factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// 1.
    One,
    /// The root of the stream's width.
    RootOfWidth,
    /// What a key tells.
    Key(&'static str),
    /// 1 by what a key tells.
    By(&'static str),
}

/// What attention scores are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// 1 by the root of a head's width.
    Head,
    /// 1 by the root of what a key tells.
    RootOf(&'static str),
    /// What a key tells.
    Key(&'static str),
    /// As [`Scores::Head`]; GPT-2 can switch that off, and divide by the layer's number.
    Gpt2,
}

/// How attention and feed-forward block follow each other.
///
/// Where the norms stand follows from which of them there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// One after the other.
    InTurn,
    /// Both from the layer's input.
    SideBySide,
    /// Side by side if a key is true.
    SideBySideIf(&'static str),
    /// One after the other; unless a key is true, a block's norm is applied to the stream after the block.
    NormFirstIf(&'static str),
}

impl Blocks {
    /// The order in a model with this config.
    #[must_use]
    pub fn order(self, config: &Value) -> Order {
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        match self {
            Self::SideBySide => Order::SideBySide,
            Self::SideBySideIf(key) if flag(key) == Some(true) => Order::SideBySide,
            Self::NormFirstIf(key) if flag(key) == Some(false) => Order::NormAfter,
            Self::InTurn | Self::SideBySideIf(_) | Self::NormFirstIf(_) => Order::InTurn,
        }
    }
}

/// How the blocks of a layer follow each other in one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Attention, then the feed-forward block.
    InTurn,
    /// Both from the layer's input.
    SideBySide,
    /// Attention, a norm of the stream, the feed-forward block, a norm of the stream.
    NormAfter,
}

/// Which numbers of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Those half of the rotated part apart.
    Halves,
    /// Neighbours.
    Neighbours,
    /// Neighbours if a key is true.
    NeighboursIf(&'static str),
}

/// Which layers rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// All.
    All,
    /// Those with a window, where there is one; else all.
    Windowed,
    /// By the list `no_rope_layers` (1 is yes), or all but the last of every `no_rope_layer_interval`.
    Listed,
}

/// How queries, keys and values stand in one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// All queries, all keys, all values.
    Parts,
    /// Head by head.
    Heads,
}

/// How gate and up are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `activation(gate) · up`.
    Product,
    /// The same, and what the config calls `gelu` is its approximation with a hyperbolic tangent.
    TanhProduct,
    /// gpt-oss: bounded, with the slope `swiglu_alpha` and the limit `swiglu_limit`; in the experts' tensor
    /// gate and up take turns.
    Bounded,
}

/// How experts are chosen, beside what the sizes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// The best of all. With sigmoid scores first the groups with the best two, if there are groups.
    Usual,
    /// `DeepSeek-V2`: `topk_method` tells whether first the groups with the best are chosen; weights are not scaled to 1.
    ByMethod,
}
