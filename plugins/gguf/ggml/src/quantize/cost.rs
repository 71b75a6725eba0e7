//! What a weight costs, for estimates of time. To be measured again whenever a kernel changes.

use qhost_plugin_api::sdk::InstructionSet;

use crate::BlockType;

/// Nanoseconds for a weight on one core of the reference machine (see `TensorSegment::cost`) beside the kernel: reading it,
/// widening it from BF16, dequantising, comparing, writing, and what the check does later. Measured as the processor time of
/// whole runs on a checkpoint of 310 million random weights with one thread, less that of the kernels.
const AROUND_KERNELS: f64 = 1.6;

impl BlockType {
    /// Nanoseconds for a weight on one core of the reference machine, all in all.
    #[must_use]
    pub fn cost(self) -> f64 {
        let kernel = match self {
            Self::F32 | Self::BF16 | Self::F16 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 0.4,
            Self::Q2K => 4.8,
            Self::Q3K => 2.7,
            Self::Q4K => 5.4,
            Self::Q5K | Self::IQ4NL | Self::IQ4XS => 4.3,
            Self::Q6K => 2.9,
        };
        AROUND_KERNELS + kernel * slowness()
    }

    /// As [`cost`](Self::cost), for a tensor whose columns are weighed; without what the importances cost.
    #[must_use]
    pub fn weighted_cost(self) -> f64 {
        let kernel = match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 => return self.cost(),
            Self::Q4_0 | Self::Q5_0 | Self::Q6K => 3.0,
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 9.0,
            Self::Q2K => 10.2,
            Self::Q3K => 3.4,
            Self::IQ4NL | Self::IQ4XS => 4.8,
        };
        AROUND_KERNELS + kernel * slowness()
    }
}

/// How much longer kernels take with this machine's instructions than with those of the reference machine.
fn slowness() -> f64 {
    match InstructionSet::best() {
        InstructionSet::Avx512 => 1.0,
        InstructionSet::Avx2 => 1.35,
        InstructionSet::Baseline => 2.6,
    }
}
