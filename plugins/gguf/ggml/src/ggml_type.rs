//! Every type that a tensor of a GGUF file can have: number, name, block, where its scales are, and how it is widened.
//!
//! Numbers, sizes and places are those of `enum ggml_type` and `ggml-common.h`. This is the side of reading; which of
//! them can be written, and how, is [`BlockType`]'s.

use qhost_plugin_api::sdk::{InstructionSet, Loop, SquaredErrors};

use crate::{
    BlockType,
    dequantize::{self as from, Widen, apart},
    layout::{
        BLOCK, SUPER_BLOCK, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, mxfp4, nvfp4, q1_0,
        q2_0, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, tq1_0, tq2_0, u16_at,
    },
};

/// A type of a tensor.
#[derive(Debug, Clone, Copy)]
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
    /// None for what holds no weights: integers, and what only activations become.
    widen: Option<Widen>,
}

/// Where a block has numbers that may be infinite or NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Nowhere: integers, or scales of which every bit pattern is a number.
    Nowhere,
    /// One f64.
    F64,
    /// An f32 at the start.
    F32,
    /// One bf16.
    BF16,
    /// An f16 at each of two places, which may be the same.
    F16(usize, usize),
    /// A power of two in a byte at the start; 255 is NaN (OCP microscaling formats, E8M0).
    E8M0,
    /// An f16 whose four parts are the high four bits of four u16.
    Iq1M,
}

/// What widens blocks, out of what widens one.
macro_rules! widen {
    ($block:path) => {{
        struct Widening;

        impl Loop<&[u8], &mut [f32]> for Widening {
            type Output = ();

            #[inline(always)]
            fn run(self, bytes: &[u8], out: &mut [f32]) {
                for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    $block(block, out);
                    if out.len() > 1 {
                        apart();
                    }
                }
            }
        }

        |set, bytes, out| set.run(Widening, bytes, out)
    }};
}

/// What can be written as well, in the order of [`BlockType`].
const WRITTEN: [GgmlType; 15] = [
    weights(0, "F32", (1, 4), Numbers::F32, widen!(from::f32)),
    weights(1, "F16", (1, 2), Numbers::F16(0, 0), widen!(from::f16)),
    weights(30, "BF16", (1, 2), Numbers::BF16, widen!(from::bf16)),
    weights(2, "Q4_0", (BLOCK, q4_0::BYTES), one(q4_0::D), widen!(from::q4_0)),
    weights(3, "Q4_1", (BLOCK, q4_1::BYTES), Numbers::F16(q4_1::D, q4_1::M), widen!(from::q4_1)),
    weights(6, "Q5_0", (BLOCK, q5_0::BYTES), one(q5_0::D), widen!(from::q5_0)),
    weights(7, "Q5_1", (BLOCK, q5_1::BYTES), Numbers::F16(q5_1::D, q5_1::M), widen!(from::q5_1)),
    weights(8, "Q8_0", (BLOCK, q8_0::BYTES), one(q8_0::D), widen!(from::q8_0)),
    weights(10, "Q2_K", (SUPER_BLOCK, q2_k::BYTES), Numbers::F16(q2_k::D, q2_k::DMIN), widen!(from::q2_k)),
    weights(11, "Q3_K", (SUPER_BLOCK, q3_k::BYTES), one(q3_k::D), widen!(from::q3_k)),
    weights(12, "Q4_K", (SUPER_BLOCK, q4_k::BYTES), Numbers::F16(q4_k::D, q4_k::DMIN), widen!(from::q4_k)),
    weights(13, "Q5_K", (SUPER_BLOCK, q5_k::BYTES), Numbers::F16(q5_k::D, q5_k::DMIN), widen!(from::q5_k)),
    weights(14, "Q6_K", (SUPER_BLOCK, q6_k::BYTES), one(q6_k::D), widen!(from::q6_k)),
    weights(20, "IQ4_NL", (BLOCK, iq4_nl::BYTES), one(iq4_nl::D), widen!(from::iq4_nl)),
    weights(23, "IQ4_XS", (SUPER_BLOCK, iq4_xs::BYTES), one(iq4_xs::D), widen!(from::iq4_xs)),
];

/// What else holds weights.
const READ_ONLY: [GgmlType; 13] = [
    weights(16, "IQ2_XXS", (SUPER_BLOCK, iq2_xxs::BYTES), one(iq2_xxs::D), widen!(from::iq2_xxs)),
    weights(17, "IQ2_XS", (SUPER_BLOCK, iq2_xs::BYTES), one(iq2_xs::D), widen!(from::iq2_xs)),
    weights(18, "IQ3_XXS", (SUPER_BLOCK, iq3_xxs::BYTES), one(iq3_xxs::D), widen!(from::iq3_xxs)),
    weights(19, "IQ1_S", (SUPER_BLOCK, iq1_s::BYTES), one(iq1_s::D), widen!(from::iq1_s)),
    weights(21, "IQ3_S", (SUPER_BLOCK, iq3_s::BYTES), one(iq3_s::D), widen!(from::iq3_s)),
    weights(22, "IQ2_S", (SUPER_BLOCK, iq2_s::BYTES), one(iq2_s::D), widen!(from::iq2_s)),
    weights(29, "IQ1_M", (SUPER_BLOCK, iq1_m::BYTES), Numbers::Iq1M, widen!(from::iq1_m)),
    weights(34, "TQ1_0", (SUPER_BLOCK, tq1_0::BYTES), one(tq1_0::D), widen!(from::tq1_0)),
    weights(35, "TQ2_0", (SUPER_BLOCK, tq2_0::BYTES), one(tq2_0::D), widen!(from::tq2_0)),
    weights(39, "MXFP4", (mxfp4::WEIGHTS, mxfp4::BYTES), Numbers::E8M0, widen!(from::mxfp4)),
    // ggml takes every byte as a scale: its E4M3 without a sign reads the NaN of the standard as a number.
    weights(40, "NVFP4", (nvfp4::WEIGHTS, nvfp4::BYTES), Numbers::Nowhere, widen!(from::nvfp4)),
    weights(41, "Q1_0", (q1_0::WEIGHTS, q1_0::BYTES), one(q1_0::D), widen!(from::q1_0)),
    weights(42, "Q2_0", (q2_0::WEIGHTS, q2_0::BYTES), one(q2_0::D), widen!(from::q2_0)),
];

/// What holds no weights; ggml does not widen these either.
const OTHERS: [GgmlType; 7] = [
    other(9, "Q8_1", (32, 36), Numbers::F16(0, 2)),
    other(15, "Q8_K", (256, 292), Numbers::F32),
    other(24, "I8", (1, 1), Numbers::Nowhere),
    other(25, "I16", (1, 2), Numbers::Nowhere),
    other(26, "I32", (1, 4), Numbers::Nowhere),
    other(27, "I64", (1, 8), Numbers::Nowhere),
    other(28, "F64", (1, 8), Numbers::F64),
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

const fn weights(
    number: u32,
    name: &'static str,
    (elements, bytes): (usize, usize),
    numbers: Numbers,
    widen: Widen,
) -> GgmlType {
    GgmlType { number, name, block_elements: elements as u64, block_bytes: bytes as u64, numbers, widen: Some(widen) }
}

const fn other(number: u32, name: &'static str, (elements, bytes): (u64, u64), numbers: Numbers) -> GgmlType {
    GgmlType { number, name, block_elements: elements, block_bytes: bytes, numbers, widen: None }
}

const fn one(at: usize) -> Numbers {
    Numbers::F16(at, at)
}

/// A number is given to one type.
impl PartialEq for GgmlType {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for GgmlType {}

impl From<BlockType> for GgmlType {
    fn from(block_type: BlockType) -> Self {
        WRITTEN[block_type as usize]
    }
}

impl GgmlType {
    /// Every type, in no particular order.
    pub fn all() -> impl Iterator<Item = Self> {
        WRITTEN.into_iter().chain(READ_ONLY).chain(OTHERS)
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
    pub fn removed(number: u32) -> Option<&'static str> {
        REMOVED.iter().find(|(removed, _)| *removed == number).map(|(_, name)| *name)
    }

    /// Whether it holds weights, which [`dequantize`](Self::dequantize) widens.
    #[must_use]
    pub const fn holds_weights(self) -> bool {
        self.widen.is_some()
    }

    /// The bytes of a row; `None` if it is no whole number of blocks, or too long to count.
    #[must_use]
    pub fn row_bytes(self, row_elements: u64) -> Option<u64> {
        let blocks = row_elements.is_multiple_of(self.block_elements).then_some(row_elements / self.block_elements)?;
        blocks.checked_mul(self.block_bytes)
    }

    /// Widens blocks to weights, bit for bit as ggml's `to_float`.
    ///
    /// # Panics
    /// If `bytes` are no whole number of blocks, `out` is not exactly their weights, or the type
    /// [holds none](Self::holds_weights): a defect in the caller.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        self.dequantize_on(InstructionSet::best(), bytes, out);
    }

    /// As [`dequantize`](Self::dequantize), with the loops of an instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn dequantize_on(self, set: InstructionSet, bytes: &[u8], out: &mut [f32]) {
        let whole = (bytes.len() as u64).is_multiple_of(self.block_bytes);
        assert!(whole, "{} bytes are no whole {} blocks", bytes.len(), self.name);
        let weights = bytes.len() as u64 / self.block_bytes * self.block_elements;
        assert_eq!(out.len() as u64, weights, "a wrong number of weights for {} bytes of {}", bytes.len(), self.name);
        assert!(self.holds_weights(), "{} holds no weights", self.name);
        if let Some(widen) = self.widen {
            widen(set, bytes, out);
        }
    }

    /// The first block that no finite weights can have come from: one with a scale, or for the float types a value,
    /// that is infinite or NaN. What ggml's `ggml_validate_row_data` looks for. A last block that is not whole counts
    /// as such.
    #[must_use]
    pub fn first_invalid_block(self, bytes: &[u8]) -> Option<usize> {
        let size = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        let mut blocks = bytes.chunks_exact(size);
        let invalid = match self.numbers {
            Numbers::Nowhere => None,
            Numbers::F64 => bytes.as_chunks().0.iter().position(|bytes| !f64::from_le_bytes(*bytes).is_finite()),
            Numbers::F32 if self.block_elements > 1 => blocks.position(|block| {
                block.first_chunk().is_some_and(|bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite())
            }),
            Numbers::F32 => first_where(bytes, |raw| !f32::from_le_bytes(*raw).is_finite()),
            Numbers::BF16 => first_where(bytes, |raw| u16::from_le_bytes(*raw) & 0x7f80 == 0x7f80),
            Numbers::F16(..) if self.block_elements == 1 => first_where(bytes, |raw| !finite(u16::from_le_bytes(*raw))),
            Numbers::F16(first, second) => {
                blocks.position(|block| !finite(u16_at(block, first)) || !finite(u16_at(block, second)))
            }
            Numbers::E8M0 => blocks.position(|block| block[mxfp4::E] == 0xff),
            Numbers::Iq1M => blocks.position(|block| !finite(iq1_m::d_bits(block))),
        };
        invalid.or((!bytes.len().is_multiple_of(size)).then_some(bytes.len() / size))
    }
}

/// What is written is read as it is in anybody's file.
impl BlockType {
    /// As [`GgmlType::dequantize`].
    ///
    /// # Panics
    /// As that does.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        GgmlType::from(self).dequantize(bytes, out);
    }

    /// Adds how far blocks are from the weights that they were made of.
    ///
    /// # Panics
    /// As [`GgmlType::dequantize`].
    pub fn add_errors(self, weights: &[f32], bytes: &[u8], errors: &mut SquaredErrors) {
        // Few at a time, so that what was widened is still in the core's nearest cache when it is looked at.
        let mut widened = [0.0; 4 * SUPER_BLOCK];
        let step = widened.len() / self.block_elements() * self.block_bytes();
        for (weights, bytes) in weights.chunks(widened.len()).zip(bytes.chunks(step)) {
            let widened = &mut widened[..weights.len()];
            self.dequantize(bytes, widened);
            errors.add(weights, widened);
        }
    }

    /// As [`GgmlType::first_invalid_block`].
    #[must_use]
    pub fn first_invalid_block(self, bytes: &[u8]) -> Option<usize> {
        GgmlType::from(self).first_invalid_block(bytes)
    }
}

/// The first of some floats of `N` bytes that is such.
fn first_where<const N: usize>(bytes: &[u8], is: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    /// Floats that are looked at at once: almost always there is nothing to find.
    const MANY: usize = 1024;
    bytes.as_chunks().0.chunks(MANY).enumerate().find_map(|(index, floats)| {
        let any = floats.iter().fold(false, |any, raw| any | is(raw));
        let within = any.then(|| floats.iter().position(&is)).flatten();
        within.map(|at| index * MANY + at)
    })
}

fn finite(f16: u16) -> bool {
    f16 & 0x7c00 != 0x7c00
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
        for block_type in BlockType::ALL {
            let ours = GgmlType::from(block_type);
            assert_eq!((ours.number, ours.name), (block_type.ggml_type(), block_type.name()));
            let sizes = (block_type.block_elements() as u64, block_type.block_bytes() as u64);
            assert_eq!((ours.block_elements, ours.block_bytes), sizes);
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
                Numbers::F64 => &[(7, 0x7f), (6, 0xf0)],
                Numbers::F32 => &[(3, 0x7f), (2, 0x80)],
                Numbers::F16(_, at) => &[(at + 1, 0x7c)],
                Numbers::BF16 => &[(1, 0x7f), (0, 0x80)],
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
