//! The error that quantising is expected to make, for estimates before any weight is read.

use crate::BlockType;

impl BlockType {
    /// The root of the mean square of the error, by that of the weights, of weights that are normally distributed; measured
    /// with these kernels.
    #[must_use]
    pub const fn expected_error(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::F16 => 2.08e-4,
            Self::BF16 => 1.65e-3,
            Self::Q4_0 => 8.41e-2,
            Self::Q4_1 => 7.73e-2,
            Self::Q5_0 => 4.19e-2,
            Self::Q5_1 => 3.74e-2,
            Self::Q8_0 => 5.25e-3,
            Self::Q2K => 2.93e-1,
            Self::Q3K => 1.49e-1,
            Self::Q4K => 7.03e-2,
            Self::Q5K => 3.57e-2,
            Self::Q6K => 1.75e-2,
            Self::IQ4NL => 7.55e-2,
            Self::IQ4XS => 7.6e-2,
        }
    }
}
