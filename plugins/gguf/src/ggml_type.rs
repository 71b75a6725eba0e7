//! Every type that a tensor of a GGUF file can have: number, name, block, and where its scales are.
//!
//! Numbers, sizes and places are those of `enum ggml_type` and `ggml-common.h`. It knows how to tell a
//! finite number from another; widening and quantising is for [`BlockType`], which has those types that
//! this plugin writes.

use crate::{format::BlockType, layout::f16_bits};

/// A type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// The number in a tensor's description.
    pub number: u32,
    /// The name that llama.cpp's users know it by.
    pub name: &'static str,
    /// Weights in a block.
    pub block_elements: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    numbers: Numbers,
}

/// Where a block has numbers that may be infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// As the type that this plugin writes has them.
    Written(BlockType),
    /// Nowhere: integers, or scales of which every bit pattern is a number.
    Nowhere,
    /// One f64.
    F64,
    /// An f32 at the start.
    F32,
    /// An f16 at each of two places, which may be the same.
    F16(usize, usize),
    /// A power of two in a byte at the start; 255 is NaN (OCP microscaling formats, E8M0).
    E8M0,
    /// An f16 whose four parts are the high four bits of four u16, from byte 48 on.
    Iq1M,
}

/// The types that this plugin does not write.
const OTHERS: [GgmlType; 22] = [
    other(9, "Q8_1", 32, 36, Numbers::F16(0, 2)),
    other(15, "Q8_K", 256, 292, Numbers::F32),
    other(16, "IQ2_XXS", 256, 66, Numbers::F16(0, 0)),
    other(17, "IQ2_XS", 256, 74, Numbers::F16(0, 0)),
    other(18, "IQ3_XXS", 256, 98, Numbers::F16(0, 0)),
    other(19, "IQ1_S", 256, 50, Numbers::F16(0, 0)),
    other(20, "IQ4_NL", 32, 18, Numbers::F16(0, 0)),
    other(21, "IQ3_S", 256, 110, Numbers::F16(0, 0)),
    other(22, "IQ2_S", 256, 82, Numbers::F16(0, 0)),
    other(23, "IQ4_XS", 256, 136, Numbers::F16(0, 0)),
    other(24, "I8", 1, 1, Numbers::Nowhere),
    other(25, "I16", 1, 2, Numbers::Nowhere),
    other(26, "I32", 1, 4, Numbers::Nowhere),
    other(27, "I64", 1, 8, Numbers::Nowhere),
    other(28, "F64", 1, 8, Numbers::F64),
    other(29, "IQ1_M", 256, 56, Numbers::Iq1M),
    other(34, "TQ1_0", 256, 54, Numbers::F16(52, 52)),
    other(35, "TQ2_0", 256, 66, Numbers::F16(64, 64)),
    other(39, "MXFP4", 32, 17, Numbers::E8M0),
    // ggml takes every byte as a scale: its E4M3 without a sign reads the NaN of the standard as a number.
    other(40, "NVFP4", 64, 36, Numbers::Nowhere),
    other(41, "Q1_0", 128, 18, Numbers::F16(0, 0)),
    other(42, "Q2_0", 64, 18, Numbers::F16(0, 0)),
];

/// Numbers of types that left the format.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

const fn other(number: u32, name: &'static str, block_elements: u64, block_bytes: u64, numbers: Numbers) -> GgmlType {
    GgmlType { number, name, block_elements, block_bytes, numbers }
}

impl From<BlockType> for GgmlType {
    fn from(block_type: BlockType) -> Self {
        Self {
            number: block_type.ggml_type(),
            name: block_type.name(),
            block_elements: block_type.block_elements() as u64,
            block_bytes: block_type.block_bytes() as u64,
            numbers: Numbers::Written(block_type),
        }
    }
}

impl GgmlType {
    /// Every type, in no particular order.
    pub fn all() -> impl Iterator<Item = Self> {
        BlockType::ALL.into_iter().map(Self::from).chain(OTHERS)
    }

    /// The type of a number in a tensor's description.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        Self::all().find(|known| known.number == number)
    }

    /// The type of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|known| known.name == name)
    }

    /// The name of a type that left the format.
    pub(crate) fn removed(number: u32) -> Option<&'static str> {
        REMOVED.iter().find(|(removed, _)| *removed == number).map(|(_, name)| *name)
    }

    /// The type among those that this plugin widens.
    #[must_use]
    pub fn block_type(self) -> Option<BlockType> {
        match self.numbers {
            Numbers::Written(block_type) => Some(block_type),
            _ => None,
        }
    }

    /// The bytes of a row; `None` if it is no whole number of blocks, or too long to count.
    #[must_use]
    pub fn row_bytes(self, row_elements: u64) -> Option<u64> {
        let blocks = row_elements.is_multiple_of(self.block_elements).then_some(row_elements / self.block_elements)?;
        blocks.checked_mul(self.block_bytes)
    }

    /// The first block with a scale or a value that is infinite or NaN: what `ggml_validate_row_data`
    /// looks for. A last block that is not whole counts as such.
    #[must_use]
    pub fn first_invalid_block(self, bytes: &[u8]) -> Option<usize> {
        let size = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        let mut blocks = bytes.chunks_exact(size);
        let invalid = match self.numbers {
            Numbers::Written(block_type) => return block_type.first_invalid_block(bytes),
            Numbers::Nowhere => None,
            Numbers::F64 => bytes.as_chunks().0.iter().position(|bytes| !f64::from_le_bytes(*bytes).is_finite()),
            Numbers::F32 => blocks.position(|block| {
                block.first_chunk().is_some_and(|bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite())
            }),
            Numbers::F16(first, second) => {
                blocks.position(|block| !finite(f16_bits(block, first)) || !finite(f16_bits(block, second)))
            }
            Numbers::E8M0 => blocks.position(|block| block[0] == 0xff),
            Numbers::Iq1M => blocks.position(|block| !finite(iq1_m_scale(block))),
        };
        invalid.or((!bytes.len().is_multiple_of(size)).then_some(bytes.len() / size))
    }
}

fn finite(f16: u16) -> bool {
    f16 & 0x7c00 != 0x7c00
}

fn iq1_m_scale(block: &[u8]) -> u16 {
    (0..4).fold(0, |scale, part| scale | f16_bits(block, 48 + 2 * part) >> 12 << (4 * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_given_once_and_lead_back() {
        let all: Vec<_> = GgmlType::all().collect();
        assert_eq!(all.len(), 35);
        for known in all {
            assert_eq!(GgmlType::numbered(known.number), Some(known));
            assert_eq!(GgmlType::named(known.name), Some(known));
            assert_eq!(GgmlType::removed(known.number), None);
        }
        // Up to the last number, nothing is missing: each is a type, or was one.
        assert!((0..43).all(|number| GgmlType::numbered(number).is_some() || GgmlType::removed(number).is_some()));
    }

    #[test]
    fn a_scale_that_is_no_number_is_found_where_it_is() {
        for known in GgmlType::all() {
            let size = usize::try_from(known.block_bytes).unwrap();
            let places: &[(usize, u8)] = match known.numbers {
                Numbers::Nowhere => &[],
                Numbers::Written(_) => continue,
                Numbers::F64 => &[(7, 0x7f), (6, 0xf0)],
                Numbers::F32 => &[(3, 0x7f), (2, 0x80)],
                Numbers::F16(_, at) => &[(at + 1, 0x7c)],
                Numbers::E8M0 => &[(0, 0xff)],
                Numbers::Iq1M => &[(55, 0x70), (53, 0xc0)],
            };
            let mut bytes = vec![0; size * 3];
            assert_eq!(known.first_invalid_block(&bytes), None, "{}", known.name);
            assert_eq!(known.first_invalid_block(&bytes[..size * 3 - 1]), (size > 1).then_some(2), "{}", known.name);
            for &(at, byte) in places {
                bytes[size + at] = byte;
            }
            assert_eq!(known.first_invalid_block(&bytes), (!places.is_empty()).then_some(1), "{}", known.name);
        }
    }
}
