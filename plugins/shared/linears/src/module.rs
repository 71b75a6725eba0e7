//! A matrix that is quantised.

use qhost_plugin_api::documents::InputGroup;

use crate::{Settings, Taken};

/// A matrix that is quantised.
#[derive(Debug, Clone)]
pub struct Module {
    /// The name that readers know: that of the tensor, without `.weight`.
    pub name: String,
    /// The source tensor.
    pub tensor: u32,
    /// Which matrix of it, where experts are stacked.
    pub expert: Option<u32>,
    /// Which outputs of that matrix: the first, and the distance to the next.
    pub outputs: Outputs,
    /// Outputs (N).
    pub rows: u64,
    /// Inputs (K).
    pub columns: u64,
    /// Whether the source has inputs as rows.
    pub transposed: bool,
    /// The unit that it belongs to.
    pub unit: u32,
    /// The inputs that it shares with others.
    pub group: InputGroup,
    /// Whose inputs they are, where each expert has its own.
    pub expert_of_statistics: Option<u32>,
    /// How it is quantised.
    pub settings: Settings,
    /// How its codes are taken over, if they are not rounded.
    pub taken: Option<Taken>,
    /// The segment of its first tensor; the others follow it, in the order of the format.
    pub first_segment: u32,
}

/// Some outputs of a matrix in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outputs {
    /// The first.
    pub first: u64,
    /// From one to the next.
    pub step: u64,
    /// How many the matrix has.
    pub of: u64,
}

impl Module {
    /// Whether it is a tensor of its own, whose rows are its outputs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.expert.is_none() && !self.transposed && self.outputs == Outputs { first: 0, step: 1, of: self.rows }
    }

    /// Inputs that share a scale.
    #[must_use]
    pub fn group_size(&self) -> u64 {
        self.settings.group_size.unwrap_or(self.columns)
    }

    /// Groups of a row.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.columns.div_ceil(self.group_size().max(1))
    }

    /// The number of weights.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.rows * self.columns
    }
}
