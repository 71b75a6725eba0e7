//! What is written as GGUF: the levels that users choose from, over block types.
//!
//! Numbers and names are the format's own (`enum llama_ftype`). It knows no mixture rules: which tensor of a model
//! gets which type at a level is decided elsewhere.

pub use qhost_ggml::BlockType;

/// What a user asks for: a mixture of block types under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The name, as llama.cpp spells it.
    pub name: &'static str,
    /// The number for `general.file_type`.
    pub file_type: u32,
    /// The type of most tensors; the mixture rules raise some above it.
    pub base: BlockType,
    /// One line for a list of levels.
    pub summary: &'static str,
}

/// Every level, from small to exact.
pub const LEVELS: [Level; 19] = [
    level("Q2_K", 10, BlockType::Q2K, "2 bits with 3 and 4 for attention values: smallest, clear loss"),
    level("Q3_K_S", 11, BlockType::Q3K, "3 bits nearly everywhere: small, noticeable loss"),
    level("Q3_K_M", 12, BlockType::Q3K, "3 bits, more for attention values and ffn_down: small, moderate loss"),
    level("Q3_K_L", 13, BlockType::Q3K, "3 bits, 5 for attention values and ffn_down: the best of the 3-bit levels"),
    level("IQ4_XS", 30, BlockType::IQ4XS, "4 bits of uneven steps in super-blocks: the smallest of the 4-bit levels"),
    level("Q4_0", 2, BlockType::Q4_0, "4 bits, one scale per 32 weights: the plain old format, fastest to make"),
    level("IQ4_NL", 25, BlockType::IQ4NL, "4 bits of uneven steps, one scale per 32 weights: less loss than Q4_0"),
    level("Q4_1", 3, BlockType::Q4_1, "4 bits, scale and minimum per 32 weights: old format"),
    level("Q4_K_S", 14, BlockType::Q4K, "4 bits in super-blocks: a little smaller than Q4_K_M"),
    level("Q4_K_M", 15, BlockType::Q4K, "4 bits in super-blocks, 6 for sensitive tensors: the usual choice"),
    level("Q5_0", 8, BlockType::Q5_0, "5 bits, one scale per 32 weights: old format"),
    level("Q5_1", 9, BlockType::Q5_1, "5 bits, scale and minimum per 32 weights: old format"),
    level("Q5_K_S", 16, BlockType::Q5K, "5 bits in super-blocks: low loss"),
    level("Q5_K_M", 17, BlockType::Q5K, "5 bits in super-blocks, 6 for sensitive tensors: low loss"),
    level("Q6_K", 18, BlockType::Q6K, "6 bits in super-blocks: very low loss"),
    level("Q8_0", 7, BlockType::Q8_0, "8 bits, one scale per 32 weights: loss close to nothing"),
    level("F16", 1, BlockType::F16, "16-bit floats"),
    level("BF16", 32, BlockType::BF16, "16-bit brain floats: lossless for models that were published in them"),
    level("F32", 0, BlockType::F32, "32-bit floats: lossless, twice the size of the usual checkpoint"),
];

impl Level {
    /// The level of a name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        LEVELS.iter().find(|level| level.name.eq_ignore_ascii_case(name))
    }

    /// The level of a number in `general.file_type`.
    #[must_use]
    pub fn numbered(file_type: u32) -> Option<&'static Self> {
        LEVELS.iter().find(|level| level.file_type == file_type)
    }
}

const fn level(name: &'static str, file_type: u32, base: BlockType, summary: &'static str) -> Level {
    Level { name, file_type, base, summary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_in_any_case_and_named_once() {
        assert_eq!(Level::named("q4_k_m").map(|level| level.file_type), Some(15));
        assert_eq!(Level::named("bf16").map(|level| level.base), Some(BlockType::BF16));
        assert_eq!(Level::named("Q4_K"), None);
        for (index, level) in LEVELS.iter().enumerate() {
            for other in &LEVELS[index + 1..] {
                assert!(level.name != other.name && level.file_type != other.file_type);
            }
        }
    }
}
