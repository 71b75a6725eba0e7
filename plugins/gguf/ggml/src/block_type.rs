//! The block types that are written, with their sizes.
//!
//! Numbers and names are those of `enum ggml_type`; what is read besides is [`GgmlType`](crate::GgmlType)'s.

use crate::layout;

/// How a run of weights is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// 4 bits, a scale for 32 weights.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 weights.
    Q4_1,
    /// 5 bits, a scale for 32 weights.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 weights.
    Q5_1,
    /// 8 bits, a scale for 32 weights.
    Q8_0,
    /// 2 bits in super-blocks of 256; 4-bit scales and minima for 16 weights.
    Q2K,
    /// 3 bits in super-blocks of 256; 6-bit scales for 16 weights.
    Q3K,
    /// 4 bits in super-blocks of 256; 6-bit scales and minima for 32 weights.
    Q4K,
    /// 5 bits in super-blocks of 256; 6-bit scales and minima for 32 weights.
    Q5K,
    /// 6 bits in super-blocks of 256; 8-bit scales for 16 weights.
    Q6K,
    /// 4 bits for values of uneven steps, a scale for 32 weights.
    IQ4NL,
    /// The values of IQ4_NL in super-blocks of 256; 6-bit scales for 32 weights.
    IQ4XS,
}

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
    ];

    /// The number that stands for it in a tensor's description.
    #[must_use]
    pub const fn ggml_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::IQ4NL => 20,
            Self::IQ4XS => 23,
            Self::BF16 => 30,
        }
    }

    /// The name that llama.cpp's users know it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::IQ4NL => "IQ4_NL",
            Self::IQ4XS => "IQ4_XS",
        }
    }

    /// The weights that are stored together: a row holds a whole number of these.
    #[must_use]
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4NL => layout::BLOCK,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::IQ4XS => layout::SUPER_BLOCK,
        }
    }

    /// The bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => layout::q4_0::BYTES,
            Self::Q4_1 => layout::q4_1::BYTES,
            Self::Q5_0 => layout::q5_0::BYTES,
            Self::Q5_1 => layout::q5_1::BYTES,
            Self::Q8_0 => layout::q8_0::BYTES,
            Self::Q2K => layout::q2_k::BYTES,
            Self::Q3K => layout::q3_k::BYTES,
            Self::Q4K => layout::q4_k::BYTES,
            Self::Q5K => layout::q5_k::BYTES,
            Self::Q6K => layout::q6_k::BYTES,
            Self::IQ4NL => layout::iq4_nl::BYTES,
            Self::IQ4XS => layout::iq4_xs::BYTES,
        }
    }

    /// The bytes of a row; `None` if it is no whole number of blocks, or too long to count.
    #[must_use]
    pub const fn row_bytes(self, row_elements: u64) -> Option<u64> {
        let elements = self.block_elements() as u64;
        if !row_elements.is_multiple_of(elements) {
            return None;
        }
        (row_elements / elements).checked_mul(self.block_bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_those_of_the_format() {
        let sizes = BlockType::ALL.map(|block_type| {
            (block_type.name(), block_type.ggml_type(), block_type.block_elements(), block_type.block_bytes())
        });
        assert_eq!(
            sizes,
            [
                ("F32", 0, 1, 4),
                ("F16", 1, 1, 2),
                ("BF16", 30, 1, 2),
                ("Q4_0", 2, 32, 18),
                ("Q4_1", 3, 32, 20),
                ("Q5_0", 6, 32, 22),
                ("Q5_1", 7, 32, 24),
                ("Q8_0", 8, 32, 34),
                ("Q2_K", 10, 256, 84),
                ("Q3_K", 11, 256, 110),
                ("Q4_K", 12, 256, 144),
                ("Q5_K", 13, 256, 176),
                ("Q6_K", 14, 256, 210),
                ("IQ4_NL", 20, 32, 18),
                ("IQ4_XS", 23, 256, 136),
            ]
        );
    }

    #[test]
    fn a_row_must_be_whole_blocks() {
        assert_eq!(BlockType::Q4K.row_bytes(4096), Some(16 * 144));
        assert_eq!(BlockType::Q4K.row_bytes(4096 - 32), None);
        assert_eq!(BlockType::Q8_0.row_bytes(4096 - 32), Some(127 * 34));
        assert_eq!(BlockType::F16.row_bytes(3), Some(6));
        assert_eq!(BlockType::F16.row_bytes(0), Some(0));
        assert_eq!(BlockType::F32.row_bytes(u64::MAX), None);
    }
}
