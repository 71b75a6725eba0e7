//! What a weight costs, for estimates of time. To be measured again whenever a kernel changes.

use crate::format::BlockType;

impl BlockType {
    /// Nanoseconds for a weight on one core of the reference machine (see `TensorSegment::cost`): widening
    /// it from BF16, quantising, dequantising, and what the check does later.
    ///
    /// Measured on a checkpoint of 178 million random weights as the processor time of a whole run with one
    /// thread, less what the host needs for the bytes.
    #[must_use]
    pub const fn cost(self) -> f64 {
        match self {
            Self::F32 | Self::BF16 | Self::Q4_0 => 3.2,
            Self::F16 => 4.5,
            Self::Q4_1 | Self::Q8_0 => 3.1,
            Self::Q5_0 => 4.1,
            Self::Q5_1 => 4.0,
            Self::Q2K => 46.0,
            Self::Q3K => 10.0,
            Self::Q4K => 45.0,
            Self::Q5K => 36.0,
            Self::Q6K => 37.0,
            Self::IQ4NL => 17.0,
            Self::IQ4XS => 18.0,
        }
    }

    /// As [`cost`](Self::cost), for a tensor whose columns are weighed; without what the importances cost.
    #[must_use]
    pub const fn weighted_cost(self) -> f64 {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 => self.cost(),
            Self::Q4_0 | Self::Q5_0 => 35.0,
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 80.0,
            Self::Q2K => 100.0,
            Self::Q3K | Self::Q6K => 37.0,
            Self::IQ4NL | Self::IQ4XS => 21.0,
        }
    }
}
