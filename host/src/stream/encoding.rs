//! How rows are stored that are no floats of one dtype: 8-bit floats with a scale for each block, and
//! microscaled 4-bit floats. They are widened to `f32` when they are lent.
//!
//! It knows bytes and places; which tensors are stored so is for [`crate::model`].

use std::ops::Range;

/// How the rows of a tensor are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    /// As they are lent.
    Plain,
    /// E4M3 floats, each multiplied with the scale of its block.
    ///
    /// Scales are row-major over blocks; those at the edges are cut off.
    ScaledE4M3 {
        /// The scales.
        scales: Scales,
        /// Rows of a block.
        block_rows: u64,
        /// Columns of a block.
        block_columns: u64,
    },
    /// OCP microscaling (MX) blocks of 32 E2M1 floats, the first of each pair in the low bits, with E8M0
    /// scales in a tensor of their own.
    Mxfp4 {
        /// Index of the scales' file.
        file: usize,
        /// First byte of the scales, one for each block.
        offset: u64,
    },
}

/// Scales of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scales {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Blocks in a row of blocks.
    pub columns: u64,
    /// How a scale is stored.
    pub kind: ScaleKind,
}

/// How a scale is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleKind {
    /// IEEE binary32.
    F32,
    /// The upper half of binary32.
    BF16,
}

impl ScaleKind {
    /// Bytes of a scale.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
        }
    }
}

/// Weights in a block of MXFP4.
pub(super) const MX_BLOCK: u64 = 32;

/// The magnitudes of E2M1.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// An E4M3 float without infinities, as `PyTorch`'s `float8_e4m3fn`: bias 7, one NaN for each sign.
fn from_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3 & 0xf), u32::from(bits & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // Multiples of 2⁻⁹.
        (0, _) => f32::from(bits & 7) / 512.0,
        _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A power of two with the biased exponent `bits`, as E8M0 has it; 255 is NaN.
fn from_e8m0(bits: u8) -> f32 {
    match bits {
        255 => f32::NAN,
        // 2⁻¹²⁷ is not normal.
        0 => f32::from_bits(1 << 22),
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// Widens rows of E4M3 floats.
///
/// `scale` gives the bytes of the scale of a block; `None` if there is none, and then so is the answer.
pub(super) fn widen_e4m3<'a>(
    bytes: &[u8],
    rows: &Range<u64>,
    columns: u64,
    (block_rows, block_columns): (u64, u64),
    scales: &Scales,
    mut scale: impl FnMut(u64) -> Option<&'a [u8]>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() * 4);
    let columns_in_memory = usize::try_from(columns).ok()?.max(1);
    let step = usize::try_from(block_columns).ok()?.max(1);
    for (row, line) in rows.clone().zip(bytes.chunks_exact(columns_in_memory)) {
        for (block, weights) in (0..).zip(line.chunks(step)) {
            let raw = scale(row / block_rows.max(1) * scales.columns + block)?;
            let scale = match scales.kind {
                ScaleKind::F32 => f32::from_le_bytes(*raw.first_chunk()?),
                ScaleKind::BF16 => f32::from_bits(u32::from(u16::from_le_bytes(*raw.first_chunk()?)) << 16),
            };
            out.extend(weights.iter().flat_map(|bits| (from_e4m3(*bits) * scale).to_le_bytes()));
        }
    }
    Some(out)
}

/// Widens blocks of MXFP4, 16 bytes each, with one scale for each.
pub(super) fn widen_mxfp4(blocks: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() * 8);
    for (block, scale) in blocks.as_chunks::<16>().0.iter().zip(scales) {
        let scale = from_e8m0(*scale);
        let value = |bits: u8| {
            let magnitude = E2M1[usize::from(bits & 7)] * scale;
            if bits & 8 == 0 { magnitude } else { -magnitude }
        };
        out.extend(block.iter().flat_map(|pair| [value(pair & 0xf), value(pair >> 4)]).flat_map(f32::to_le_bytes));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_floats_are_those_of_the_format() {
        for (bits, value) in [
            (0x00, 0.0),
            (0x01, 2.0_f32.powi(-9)),
            (0x07, 7.0 * 2.0_f32.powi(-9)),
            (0x08, 2.0_f32.powi(-6)),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(from_e4m3(bits).to_bits(), value.to_bits(), "{bits:#x}");
        }
        assert!(from_e4m3(0x7f).is_nan() && from_e4m3(0xff).is_nan());
        assert_eq!(from_e4m3(0x80).to_bits(), (-0.0_f32).to_bits());
    }

    #[test]
    fn e8m0_scales_are_powers_of_two() {
        let scales = [127, 130, 0].map(|bits| from_e8m0(bits).to_bits());
        assert_eq!(scales, [1.0_f32, 8.0, 2.0_f32.powi(-127)].map(f32::to_bits));
        assert!(from_e8m0(255).is_nan());
    }

    #[test]
    fn every_weight_gets_the_scale_of_its_block() {
        let scales = Scales { file: 0, offset: 0, columns: 2, kind: ScaleKind::F32 };
        let stored: Vec<[u8; 4]> = [1.0_f32, 2.0, 4.0, 8.0].map(f32::to_le_bytes).into();
        // Three rows of three ones in blocks of two by two.
        let widened = widen_e4m3(&[0x38; 6], &(1..3), 3, (2, 2), &scales, |block| {
            stored.get(usize::try_from(block).unwrap()).map(<[u8; 4]>::as_slice)
        });
        let widened = widened.unwrap();
        let values: Vec<_> = widened.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
        assert_eq!(values, [1.0, 1.0, 2.0, 4.0, 4.0, 8.0]);
        assert!(widen_e4m3(&[0x38; 3], &(9..10), 3, (2, 2), &scales, |_| None).is_none());
    }

    #[test]
    fn the_first_of_a_pair_is_in_the_low_bits() {
        let mut block = [0_u8; 16];
        block[0] = 0xf2;
        let widened = widen_mxfp4(&block, &[128]);
        let values: Vec<_> = widened.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
        assert_eq!((values.len(), values[0], values[1]), (32, 2.0, -12.0));
    }
}
