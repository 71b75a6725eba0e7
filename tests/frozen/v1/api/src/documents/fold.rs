//! Where the inputs of linears may be scaled channel by channel without a change of what the model computes.
//!
//! If every tensor that reads a channel is multiplied by `s` there, and what makes the channel is divided by `s`, the
//! products are the same. The host says which tensors these are, from what the family computes; which scales are worth
//! it is a plugin's to find.

use serde::{Deserialize, Serialize};

use super::InputGroup;

/// An input of linears, everything that reads it, and what takes the inverse of a scale.
///
/// For channel `c` and a scale `s[c]` that is finite and not zero: input `c` of every reader is multiplied by `s[c]`,
/// and the source is divided by `s[c]` as [`FoldSource`] says. Biases of readers stay as they are. Folds may be applied
/// in any order, all or some of them: a tensor that is a reader of one and the source of another is scaled twice, along
/// different axes.
///
/// Input `c` of a tensor is column `c` of its matrix; of a tensor that is `transposed`, row `c`. A reader that is a plain
/// list (one output, say) has its element `c` as input `c`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fold {
    /// The unit.
    pub unit: u32,
    /// Groups of the unit's linears that read this input: more than one where attention and feed-forward block stand
    /// side by side behind one norm.
    pub groups: Vec<InputGroup>,
    /// The expert whose input it is, where each has its own. Of a tensor that holds all experts only that expert's part
    /// is meant then, among readers and in the source; without an expert, all parts are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u32>,
    /// The tensors that read it, all of them: routers and gates as well as linears that a format quantises.
    pub readers: Vec<u32>,
    /// The number of channels.
    pub channels: u64,
    /// What takes the inverse.
    pub source: FoldSource,
}

impl Fold {
    /// A fold of one group.
    #[must_use]
    pub fn new(unit: u32, group: InputGroup, readers: Vec<u32>, channels: u64, source: FoldSource) -> Self {
        Self { unit, groups: vec![group], expert: None, readers, channels, source }
    }

    /// Whether there is a source that this version of the API knows.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        matches!(self.source, FoldSource::Norm(_) | FoldSource::Rows(_))
    }

    /// What a channel shares with others: channels with the same number need the same scale.
    #[must_use]
    pub fn tie(&self, channel: u64) -> u64 {
        match &self.source {
            FoldSource::Rows(rows) => rows.map.row(channel),
            FoldSource::Norm(_) | FoldSource::Obstacle { .. } | FoldSource::Other => channel,
        }
    }

    /// Whether there are channels that need the same scale.
    #[must_use]
    pub fn has_ties(&self) -> bool {
        matches!(&self.source, FoldSource::Rows(rows) if rows.map.share > 1)
    }
}

/// What takes the inverse of the scales of a [`Fold`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FoldSource {
    /// The gain of a norm.
    Norm(FoldedNorm),
    /// Outputs of an earlier linear of the unit.
    Rows(FoldedRows),
    /// Nothing: the input cannot be scaled.
    #[non_exhaustive]
    Obstacle {
        /// Why, for people: what goes on after "cannot be scaled: ".
        reason: String,
    },
    /// A source that was added to the API after this version: the input cannot be scaled by whoever does not know it.
    #[serde(other)]
    Other,
}

impl FoldSource {
    /// No source, for this reason.
    pub fn obstacle(reason: impl Into<String>) -> Self {
        Self::Obstacle { reason: reason.into() }
    }
}

/// A norm as the source of a fold: channel `c` is its element `c`.
///
/// With the stored gain `g` and bias `b` of a channel, `g' = (g + offset) / s - offset` and `b' = b / s`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoldedNorm {
    /// The tensor of the gain.
    pub weight: u32,
    /// The tensor of the bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<u32>,
    /// What is added to the stored gain: 0, or 1.
    #[serde(default)]
    pub offset: f32,
}

impl FoldedNorm {
    /// A norm whose gain is what is stored.
    #[must_use]
    pub fn new(weight: u32, bias: Option<u32>) -> Self {
        Self { weight, bias, offset: 0.0 }
    }

    /// The same, if this is added to the stored gain.
    #[must_use]
    pub fn with_offset(self, offset: f32) -> Self {
        Self { offset, ..self }
    }
}

/// Outputs of a linear as the source of a fold: the weights and the bias of the output that makes a channel are divided by
/// the channel's scale.
///
/// Output `r` of a tensor is row `r` of its matrix; of a tensor that is `transposed`, column `r`. In a bias it is element
/// `r`. A tensor that holds all experts has a matrix, and a row of biases, for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoldedRows {
    /// The tensor of the weights.
    pub weight: u32,
    /// The tensor of the biases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<u32>,
    /// Which output makes which channel.
    pub map: RowMap,
}

impl FoldedRows {
    /// Outputs of a linear by a map.
    #[must_use]
    pub fn new(weight: u32, bias: Option<u32>, map: RowMap) -> Self {
        Self { weight, bias, map }
    }
}

/// Which output of a linear makes which channel: `first + ((c / width) / share) · step + (c % width) · stride`, with
/// whole quotients.
///
/// Channels are made of parts that are `width` wide, such as heads; `share` parts in turn are made of the same outputs, as
/// in grouped-query attention, and so need the same scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RowMap {
    /// The output of channel 0.
    pub first: u64,
    /// Channels of a part.
    pub width: u64,
    /// Parts in turn that are made of the same outputs.
    pub share: u64,
    /// From a part's first output to that of the next one that does not share it.
    pub step: u64,
    /// From a channel's output to that of the next channel of its part.
    pub stride: u64,
}

impl RowMap {
    /// So many channels, each made of an output of its own, in their order from one on.
    #[must_use]
    pub fn in_order(first: u64, channels: u64) -> Self {
        Self { first, width: channels, share: 1, step: channels, stride: 1 }
    }

    /// The same with parts of this width, whose outputs begin so far apart.
    #[must_use]
    pub fn in_parts(self, width: u64, step: u64) -> Self {
        Self { width, step, ..self }
    }

    /// The same where so many parts in turn are made of the same outputs.
    #[must_use]
    pub fn shared_by(self, share: u64) -> Self {
        Self { share, ..self }
    }

    /// The same where the outputs of a part are so far apart.
    #[must_use]
    pub fn with_stride(self, stride: u64) -> Self {
        Self { stride, ..self }
    }

    /// The output that makes a channel.
    #[must_use]
    pub fn row(&self, channel: u64) -> u64 {
        let width = self.width.max(1);
        let part = channel / width / self.share.max(1);
        self.first + part * self.step + channel % width * self.stride
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn query_heads_that_share_a_value_head_are_tied() {
        // Four query heads, two value heads, two elements each, behind 12 outputs that are queries and keys.
        let map = RowMap::in_order(12, 8).in_parts(2, 2).shared_by(2);
        let source = FoldSource::Rows(FoldedRows::new(3, None, map));
        let fold = Fold::new(1, InputGroup::AttentionOut, vec![4], 8, source);
        let ties: Vec<_> = (0..8).map(|channel| fold.tie(channel)).collect();
        assert_eq!(ties, [12, 13, 12, 13, 14, 15, 14, 15]);
        assert!(fold.has_ties() && fold.is_possible());
    }

    #[test]
    fn outputs_may_take_turns() {
        let map = RowMap::in_order(1, 3).with_stride(2);
        assert_eq!([0, 1, 2].map(|channel| map.row(channel)), [1, 3, 5]);
        // Keys without rotation, and values, head by head.
        let map = RowMap::in_order(4, 6).in_parts(3, 7);
        assert_eq!([0, 2, 3, 5].map(|channel| map.row(channel)), [4, 6, 11, 13]);
    }

    #[test]
    fn a_source_of_a_later_api_makes_a_fold_impossible() {
        let text = json!({"unit": 1, "groups": ["attn_in"], "readers": [2], "channels": 4,
            "source": {"kind": "gate", "weight": 3}});
        let fold: Fold = serde_json::from_value(text).unwrap();
        assert_eq!(fold.source, FoldSource::Other);
        assert!(!fold.is_possible());
    }

    #[test]
    fn a_fold_is_the_same_after_the_border() {
        let norm = FoldSource::Norm(FoldedNorm::new(1, Some(2)).with_offset(1.0));
        for source in [norm, FoldSource::obstacle("why")] {
            let fold = Fold::new(1, InputGroup::FfnIn, vec![5, 6], 4, source);
            assert_eq!(serde_json::from_str::<Fold>(&serde_json::to_string(&fold).unwrap()).unwrap(), fold);
        }
    }
}
