//! From codes with scales, which someone else has chosen, to blocks.
//!
//! Nothing is searched for: a block gets the scale of its group. It knows the universal kinds of encodings.

use qhost_plugin_api::{
    documents::Encoding,
    sdk::{Failure, Planes, Result},
};

use super::legacy::{put_4_bits, put_5_bits};
use crate::{
    BlockType,
    float::{from_f16, to_f16},
    layout::{BLOCK, put_f16, q4_0, q4_1, q5_0, q5_1, q8_0},
};

impl BlockType {
    /// The least and the greatest of a weight by its scale, for the types without minima.
    pub const fn range(self) -> Option<[i64; 2]> {
        match self {
            Self::Q4_0 => Some([-8, 7]),
            Self::Q5_0 => Some([-16, 15]),
            Self::Q8_0 => Some([-128, 127]),
            _ => None,
        }
    }

    /// The bits of a code above the minimum, for the types that have one and no super-blocks.
    pub const fn bits_above_minimum(self) -> Option<u32> {
        match self {
            Self::Q4_1 => Some(4),
            Self::Q5_1 => Some(5),
            _ => None,
        }
    }

    /// Packs rows of codes into blocks. Each block lies in one group.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when a code, a scale or a minimum is none that the encoding allows, and with `INTERNAL`
    /// for a type that has no blocks of codes with one scale.
    pub fn pack(self, planes: &Planes, out: &mut [u8]) -> Result<()> {
        let (inputs, groups) = (planes.inputs(), planes.groups());
        let blocks = planes.bytes.as_chunks::<BLOCK>().0;
        let of_row = (inputs / BLOCK).max(1);
        for (index, (codes, out)) in blocks.iter().zip(out.chunks_exact_mut(self.block_bytes())).enumerate() {
            let (row, first) = (index / of_row, index % of_row * BLOCK);
            let group = row * groups + planes.group_of(first);
            let numbers = planes.scales.get(group).zip(planes.offsets.get(group));
            let (scale, offset) =
                numbers.ok_or_else(|| Failure::corrupt("a weight is in a group that is not there"))?;
            let minimum = planes.encoding().kind == Encoding::MINIMUM;
            self.pack_block(codes, *scale, *offset, minimum, out)?;
        }
        Ok(())
    }

    fn pack_block(self, codes: &[u8; BLOCK], scale: f32, offset: f32, minimum: bool, out: &mut [u8]) -> Result<()> {
        let d = stored(scale)?;
        if let (Some([least, greatest]), false) = (self.range(), minimum) {
            let mut levels = [0; BLOCK];
            for (level, code) in levels.iter_mut().zip(codes) {
                let above = f32::from(*code) - offset;
                #[expect(clippy::cast_possible_truncation, reason = "a small whole number, which is looked at")]
                let whole = above as i64;
                if !(least..=greatest).contains(&whole) || above.fract() != 0.0 {
                    return Err(Failure::corrupt(format!("the code {code} is {above} above its zero point")));
                }
                *level = (whole - if self == Self::Q8_0 { 0 } else { least }).to_le_bytes()[0];
            }
            match self {
                Self::Q4_0 => {
                    put_f16(out, q4_0::D, d);
                    put_4_bits(&mut out[q4_0::QS..], &levels);
                }
                Self::Q5_0 => {
                    put_f16(out, q5_0::D, d);
                    put_5_bits(out, q5_0::QH, q5_0::QS, &levels);
                }
                _ => {
                    put_f16(out, q8_0::D, d);
                    out[q8_0::QS..].copy_from_slice(&levels);
                }
            }
            return Ok(());
        }
        let bits = self.bits_above_minimum();
        let bits = bits.ok_or_else(|| Failure::internal(format!("{} takes no codes", self.name())))?;
        if let Some(code) = codes.iter().find(|code| **code >> bits != 0) {
            return Err(Failure::corrupt(format!("the code {code} has more than {bits} bits")));
        }
        // The product has few digits, so only the minimum itself is rounded.
        let m = if minimum { stored(offset)? } else { -scale * offset };
        if self == Self::Q4_1 {
            put_f16(out, q4_1::D, d);
            put_f16(out, q4_1::M, m);
            put_4_bits(&mut out[q4_1::QS..], codes);
        } else {
            put_f16(out, q5_1::D, d);
            put_f16(out, q5_1::M, m);
            put_5_bits(out, q5_1::QH, q5_1::QS, codes);
        }
        Ok(())
    }
}

/// A scale or minimum that is a finite f16.
fn stored(number: f32) -> Result<f32> {
    if number.is_finite() && from_f16(to_f16(number)).to_bits() == number.to_bits() {
        return Ok(number);
    }
    Err(Failure::corrupt(format!("a scale or minimum is {number:e}, which is no 16-bit float")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rows of two groups with scales of any sign and codes of all values.
    fn planes(encoding: &Encoding, offsets: &[f32]) -> Planes {
        let mut planes = Planes::room(encoding, 3, 128).unwrap();
        let codes = 1_usize << encoding.bits.unwrap();
        for (at, code) in planes.bytes.iter_mut().enumerate() {
            *code = u8::try_from((at * 7 + at / 64) % codes).unwrap();
        }
        for (at, scale) in planes.scales.iter_mut().enumerate() {
            *scale = [0.125, -0.0625, 0.000_488_281_25, 5.960_464_5e-8, 0.0, -1.5][at];
        }
        planes.offsets.iter_mut().zip(offsets.iter().cycle()).for_each(|(place, offset)| *place = *offset);
        planes
    }

    fn packed(block_type: BlockType, planes: &Planes) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 3 * 4 * block_type.block_bytes()];
        block_type.pack(planes, &mut bytes)?;
        let mut weights = vec![0.0; 3 * 128];
        block_type.dequantize(&bytes, &mut weights);
        Ok(weights)
    }

    #[test]
    fn one_zero_point_within_the_range_loses_nothing() {
        for (block_type, bits, zero) in [
            (BlockType::Q4_0, 4, 8),
            (BlockType::Q4_0, 3, 4),
            (BlockType::Q4_0, 2, 2),
            (BlockType::Q5_0, 4, 5),
            (BlockType::Q5_0, 5, 16),
            (BlockType::Q8_0, 8, 128),
            (BlockType::Q8_0, 4, 15),
        ] {
            let encoding = Encoding::affine(bits, 64, [zero, zero], "F16");
            let planes = planes(&encoding, &[f32::from(u8::try_from(zero).unwrap())]);
            let mut expected = vec![0.0; 3 * 128];
            planes.weights(&mut expected).unwrap();
            let found = packed(block_type, &planes).unwrap();
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", block_type.name());
        }
    }

    #[test]
    fn minima_lose_nothing_and_zero_points_round_the_minimum_once() {
        for (block_type, bits) in [(BlockType::Q4_1, 4), (BlockType::Q4_1, 3), (BlockType::Q5_1, 5)] {
            let given = planes(&Encoding::minimum(bits, 64, None, "F16"), &[-0.5, 0.25, 0.0]);
            let mut expected = vec![0.0; 3 * 128];
            given.weights(&mut expected).unwrap();
            let found = packed(block_type, &given).unwrap();
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", block_type.name());
            let given = planes(&Encoding::affine(bits, 64, [0, 15], "F16"), &[3.0, 15.0, 0.0, 7.0]);
            given.weights(&mut expected).unwrap();
            let found = packed(block_type, &given).unwrap();
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let minimum = given.scales[at / 64] * given.offsets[at / 64];
                assert!((found - expected).abs() <= 4.89e-4 * minimum.abs(), "{at}: {found} {expected}");
            }
        }
    }

    #[test]
    fn what_the_encoding_does_not_allow_is_corrupt() {
        let symmetric = Encoding::affine(4, 64, [8, 8], "F16");
        for spoil in [
            (|planes| planes.bytes[5] = 16) as fn(&mut Planes),
            |planes| planes.scales[0] = f32::NAN,
            |planes| planes.scales[0] = 0.1,
            |planes| planes.offsets[0] = 7.5,
        ] {
            let mut planes = planes(&symmetric, &[8.0]);
            assert!(packed(BlockType::Q4_0, &planes).is_ok());
            spoil(&mut planes);
            let failure = packed(BlockType::Q4_0, &planes).unwrap_err();
            assert_eq!(failure.kind, qhost_plugin_api::sdk::FailureKind::CORRUPT, "{failure}");
        }
    }
}
