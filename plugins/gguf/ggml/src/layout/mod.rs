//! Where the parts of a block lie, as byte offsets from its start.
//!
//! All of it is little-endian. Quantising, dequantising and validation read and write through these
//! offsets only. It knows no arithmetic beyond the packing of 6-bit scales.

mod few;
mod iq;

pub use few::{mxfp4, nvfp4, q1_0, q2_0, tq1_0, tq2_0};
pub use iq::{UNEVEN, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, put_iq4_scales};

use crate::float;

/// Weights in a block of the types without super-blocks.
pub const BLOCK: usize = 32;

/// Weights in a super-block.
pub const SUPER_BLOCK: usize = 256;

/// 4-bit levels with a scale: `w = d · (q − 8)`.
pub mod q4_0 {
    /// The scale, f16.
    pub const D: usize = 0;
    /// 16 bytes: weight `j` in the low half of byte `j`, weight `j + 16` in the high half.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 18);
}

/// 4-bit levels with scale and minimum: `w = d · q + m`.
pub mod q4_1 {
    /// The scale, f16.
    pub const D: usize = 0;
    /// The minimum, f16.
    pub const M: usize = 2;
    /// As in Q4_0.
    pub const QS: usize = 4;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 20);
}

/// 5-bit levels with a scale: `w = d · (q − 16)`.
pub mod q5_0 {
    /// The scale, f16.
    pub const D: usize = 0;
    /// The fifth bits: one u32, bit `j` for weight `j`.
    pub const QH: usize = 2;
    /// The low four bits, as in Q4_0.
    pub const QS: usize = 6;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 22);
}

/// 5-bit levels with scale and minimum: `w = d · q + m`.
pub mod q5_1 {
    /// The scale, f16.
    pub const D: usize = 0;
    /// The minimum, f16.
    pub const M: usize = 2;
    /// The fifth bits, as in Q5_0.
    pub const QH: usize = 4;
    /// The low four bits, as in Q4_0.
    pub const QS: usize = 8;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 24);
}

/// 8-bit signed levels with a scale: `w = d · q`.
pub mod q8_0 {
    /// The scale, f16.
    pub const D: usize = 0;
    /// 32 signed bytes, in order.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 32;
    const _: () = assert!(BYTES == 34);
}

/// 2-bit levels: `w = (d · scale) · q − dmin · min`, scale and min for each 16 weights.
pub mod q2_k {
    /// 16 bytes: the scale in the low half, the minimum in the high half.
    pub const SCALES: usize = 0;
    /// 64 bytes: for each 128 weights 32 bytes, byte `l` with the weights `l`, `l + 32`, `l + 64`
    /// and `l + 96`, from the lowest bits up.
    pub const QS: usize = 16;
    /// The super-block's scale of scales, f16.
    pub const D: usize = 80;
    /// The super-block's scale of minima, f16.
    pub const DMIN: usize = 82;
    /// Bytes of a block.
    pub const BYTES: usize = DMIN + 2;
    const _: () = assert!(BYTES == 84);
}

/// 3-bit levels: `w = (d · scale) · (q − 4)`, a signed 6-bit scale for each 16 weights.
pub mod q3_k {
    /// 32 bytes with the third bits: bit `b` of byte `m` for weight `32 b + m`.
    pub const HMASK: usize = 0;
    /// The low two bits, as in Q2_K.
    pub const QS: usize = 32;
    /// 12 bytes: the low four bits of scales `j` and `j + 8` in byte `j`, the high two bits of
    /// scales `j`, `j + 4`, `j + 8` and `j + 12` in byte `8 + j`; stored with 32 added.
    pub const SCALES: usize = 96;
    /// The super-block's scale of scales, f16.
    pub const D: usize = 108;
    /// Bytes of a block.
    pub const BYTES: usize = D + 2;
    const _: () = assert!(BYTES == 110);
}

/// 4-bit levels: `w = (d · scale) · q − dmin · min`, scale and min for each 32 weights.
pub mod q4_k {
    /// The super-block's scale of scales, f16.
    pub const D: usize = 0;
    /// The super-block's scale of minima, f16.
    pub const DMIN: usize = 2;
    /// 12 bytes: see [`super::put_scale_and_min`].
    pub const SCALES: usize = 4;
    /// 128 bytes: for each 64 weights 32 bytes, byte `l` with weight `l` in the low half and weight
    /// `l + 32` in the high half.
    pub const QS: usize = 16;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 128;
    const _: () = assert!(BYTES == 144);
}

/// 5-bit levels: as Q4_K.
pub mod q5_k {
    /// The super-block's scale of scales, f16.
    pub const D: usize = 0;
    /// The super-block's scale of minima, f16.
    pub const DMIN: usize = 2;
    /// As in Q4_K.
    pub const SCALES: usize = 4;
    /// 32 bytes with the fifth bits: bit `b` of byte `l` for weight `32 b + l`.
    pub const QH: usize = 16;
    /// The low four bits, as in Q4_K.
    pub const QS: usize = 48;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 128;
    const _: () = assert!(BYTES == 176);
}

/// 6-bit levels: `w = (d · scale) · (q − 32)`, a signed 8-bit scale for each 16 weights.
pub mod q6_k {
    /// 128 bytes with the low four bits: for each 128 weights 64 bytes, byte `l` with the weights
    /// `l` and `l + 64`.
    pub const QL: usize = 0;
    /// 64 bytes with the high two bits, packed as in Q2_K.
    pub const QH: usize = 128;
    /// 16 signed bytes.
    pub const SCALES: usize = 192;
    /// The super-block's scale of scales, f16.
    pub const D: usize = 208;
    /// Bytes of a block.
    pub const BYTES: usize = D + 2;
    const _: () = assert!(BYTES == 210);
}

/// Stores an f16 at a byte offset, rounded to nearest even.
#[inline]
pub fn put_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&float::to_f16(value).to_le_bytes());
}

/// The u16, or the bits of the f16, at a byte offset.
#[inline]
pub fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The f16 at a byte offset.
#[inline]
pub fn f16(block: &[u8], at: usize) -> f32 {
    float::from_f16(u16_at(block, at))
}

/// Stores the 6-bit scale and minimum of sub-block `j` of Q4_K and Q5_K.
///
/// The first four pairs lie in the low six bits of bytes `j` and `j + 4`. Of the other four, bytes
/// `j + 4` hold the low four bits, scale below minimum, and the top two bits of bytes `j - 4` and
/// `j` the rest. So the pairs must be stored in order, on bytes that need not be clear.
#[inline]
pub fn put_scale_and_min(packed: &mut [u8; 12], j: usize, scale: u8, min: u8) {
    if j < 4 {
        packed[j] = scale;
        packed[j + 4] = min;
    } else {
        packed[j + 4] = (scale & 0xf) | (min << 4);
        packed[j - 4] |= (scale >> 4) << 6;
        packed[j] |= (min >> 4) << 6;
    }
}

/// The 6-bit scale and minimum of sub-block `j` of Q4_K and Q5_K.
#[inline]
pub fn scale_and_min(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let (low, scale_high, min_high) = (packed[j + 4], packed[j - 4] >> 6, packed[j] >> 6);
        ((low & 0xf) | (scale_high << 4), (low >> 4) | (min_high << 4))
    }
}

/// Stores the 6-bit scales of Q3_K, given with 32 added.
#[inline]
pub fn put_q3_scales(packed: &mut [u8], scales: &[u8; 16]) {
    for j in 0..8 {
        packed[j] = (scales[j] & 0xf) | (scales[j + 8] << 4);
    }
    for j in 0..4 {
        packed[8 + j] =
            (scales[j] >> 4) | (scales[j + 4] >> 4 << 2) | (scales[j + 8] >> 4 << 4) | (scales[j + 12] >> 4 << 6);
    }
}

/// The 6-bit scale of sub-block `j` of Q3_K.
#[inline]
pub fn q3_scale(packed: &[u8], j: usize) -> i8 {
    let low = if j < 8 { packed[j] & 0xf } else { packed[j - 8] >> 4 };
    let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
    (low | high << 4).cast_signed() - 32
}

/// Packs 2-bit levels, as Q2_K, Q3_K and (for its high bits) Q6_K do.
#[inline]
pub fn put_2_bits(packed: &mut [u8], levels: &[u8; SUPER_BLOCK]) {
    for (packed, levels) in packed.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for (l, packed) in packed.iter_mut().enumerate() {
            *packed = levels[l] | levels[l + 32] << 2 | levels[l + 64] << 4 | levels[l + 96] << 6;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some 6-bit values, others for every seed.
    fn six_bits<const N: usize>(seed: usize, factor: usize) -> [u8; N] {
        std::array::from_fn(|j| u8::try_from((seed * 7 + j * factor) % 64).unwrap())
    }

    #[test]
    fn scales_and_minima_come_back_as_stored() {
        for seed in 0..64 {
            let (scales, mins): ([u8; 8], [u8; 8]) = (six_bits(seed, 11), six_bits(seed, 23));
            let mut packed = [0xff; 12];
            for j in 0..8 {
                put_scale_and_min(&mut packed, j, scales[j], mins[j]);
            }
            for j in 0..8 {
                assert_eq!(scale_and_min(&packed, j), (scales[j], mins[j]));
            }
        }
    }

    #[test]
    fn q3_scales_come_back_as_stored() {
        for seed in 0..64 {
            let scales = six_bits(seed, 13);
            let mut packed = [0xff; 12];
            put_q3_scales(&mut packed, &scales);
            for (j, scale) in scales.iter().enumerate() {
                assert_eq!(q3_scale(&packed, j), scale.cast_signed() - 32);
            }
        }
    }
}
