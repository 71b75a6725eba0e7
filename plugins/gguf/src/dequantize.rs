//! From blocks back to weights, bit for bit as ggml's `to_float`, and the check of stored blocks.
//!
//! Only a NaN may differ from ggml's in its payload. It knows no tensors and no threads.

use crate::float::{from_bf16, from_f16};
use crate::format::BlockType;
use crate::layout::{
    BLOCK, SUPER_BLOCK, f16, f16_bits, q2_k, q3_k, q3_scale, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0,
    scale_and_min,
};

impl BlockType {
    /// Widens blocks to weights.
    ///
    /// # Panics
    /// If `bytes` are no whole number of blocks or `out` is not exactly their weights: a defect in
    /// the caller.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len() % self.block_bytes(), 0, "{} bytes are no whole {} blocks", bytes.len(), self.name());
        assert_eq!(
            out.len(),
            bytes.len() / self.block_bytes() * self.block_elements(),
            "a wrong number of weights for {} bytes of {}",
            bytes.len(),
            self.name()
        );
        match self {
            Self::F32 => each(bytes, out, |bytes, [out]| *out = f32::from_le_bytes(*bytes)),
            Self::F16 => each(bytes, out, |bytes, [out]| *out = from_f16(u16::from_le_bytes(*bytes))),
            Self::BF16 => each(bytes, out, |bytes, [out]| *out = from_bf16(u16::from_le_bytes(*bytes))),
            Self::Q4_0 => each(bytes, out, q4_0),
            Self::Q4_1 => each(bytes, out, q4_1),
            Self::Q5_0 => each(bytes, out, q5_0),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q8_0 => each(bytes, out, q8_0),
            Self::Q2K => each(bytes, out, q2_k),
            Self::Q3K => each(bytes, out, q3_k),
            Self::Q4K => each(bytes, out, q4_k),
            Self::Q5K => each(bytes, out, q5_k),
            Self::Q6K => each(bytes, out, q6_k),
        }
    }

    /// The first block that no finite weights can have come from: one whose f16 scales, or for the
    /// float types whose value, is infinite or NaN. What ggml's `ggml_validate_row_data` looks for.
    ///
    /// A last block that is not whole counts as invalid.
    #[must_use]
    pub fn first_invalid_block(self, bytes: &[u8]) -> Option<usize> {
        let size = self.block_bytes();
        let invalid = match self {
            Self::F32 => {
                let non_finite = |bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite();
                bytes.as_chunks().0.iter().position(non_finite)
            }
            Self::BF16 => bytes.as_chunks().0.iter().position(|bytes| u16::from_le_bytes(*bytes) & 0x7f80 == 0x7f80),
            _ => {
                let (d, m) = self.f16_offsets();
                bytes.chunks_exact(size).position(|block| non_finite_f16(block, d) || non_finite_f16(block, m))
            }
        };
        let whole = bytes.len() / size;
        invalid.or((!bytes.len().is_multiple_of(size)).then_some(whole))
    }

    /// Where a block's f16 values are; the same offset twice if there is only one.
    const fn f16_offsets(self) -> (usize, usize) {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => (0, 0),
            Self::Q4_0 => (q4_0::D, q4_0::D),
            Self::Q4_1 => (q4_1::D, q4_1::M),
            Self::Q5_0 => (q5_0::D, q5_0::D),
            Self::Q5_1 => (q5_1::D, q5_1::M),
            Self::Q8_0 => (q8_0::D, q8_0::D),
            Self::Q2K => (q2_k::D, q2_k::DMIN),
            Self::Q3K => (q3_k::D, q3_k::D),
            Self::Q4K => (q4_k::D, q4_k::DMIN),
            Self::Q5K => (q5_k::D, q5_k::DMIN),
            Self::Q6K => (q6_k::D, q6_k::D),
        }
    }
}

fn non_finite_f16(block: &[u8], at: usize) -> bool {
    f16_bits(block, at) & 0x7c00 == 0x7c00
}

/// Applies a function to each block and the place of its weights.
#[inline]
fn each<const BYTES: usize, const WEIGHTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; WEIGHTS]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        dequantize(block, out);
    }
}

#[inline]
fn q4_0(block: &[u8; q4_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q4_0::D);
    for j in 0..BLOCK / 2 {
        let packed = block[q4_0::QS + j];
        out[j] = signed(packed & 0xf, 8) * d;
        out[j + BLOCK / 2] = signed(packed >> 4, 8) * d;
    }
}

#[inline]
fn q4_1(block: &[u8; q4_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q4_1::D), f16(block, q4_1::M));
    for j in 0..BLOCK / 2 {
        let packed = block[q4_1::QS + j];
        out[j] = f32::from(packed & 0xf) * d + m;
        out[j + BLOCK / 2] = f32::from(packed >> 4) * d + m;
    }
}

#[inline]
fn q5_0(block: &[u8; q5_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q5_0::D);
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_0::QH, q5_0::QS)) {
        *out = signed(level, 16) * d;
    }
}

#[inline]
fn q5_1(block: &[u8; q5_1::BYTES], out: &mut [f32; BLOCK]) {
    let (d, m) = (f16(block, q5_1::D), f16(block, q5_1::M));
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(block, q5_1::QH, q5_1::QS)) {
        *out = f32::from(level) * d + m;
    }
}

#[inline]
fn q8_0(block: &[u8; q8_0::BYTES], out: &mut [f32; BLOCK]) {
    let d = f16(block, q8_0::D);
    for (out, level) in out.iter_mut().zip(&block[q8_0::QS..]) {
        *out = f32::from(level.cast_signed()) * d;
    }
}

#[inline]
fn q2_k(block: &[u8; q2_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (f16(block, q2_k::D), f16(block, q2_k::DMIN));
    let levels = levels_of_2_bits(&block[q2_k::QS..q2_k::D]);
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for ((out, levels), packed) in sub_blocks.zip(&block[q2_k::SCALES..q2_k::QS]) {
        let (scale, min) = (d * f32::from(packed & 0xf), dmin * f32::from(packed >> 4));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * f32::from(level) - min;
        }
    }
}

#[inline]
fn q3_k(block: &[u8; q3_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, q3_k::D);
    let mut levels = levels_of_2_bits(&block[q3_k::QS..q3_k::SCALES]);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (level, mask) in levels.iter_mut().zip(&block[q3_k::HMASK..q3_k::QS]) {
            *level |= (mask >> bit & 1) << 2;
        }
    }
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for (j, (out, levels)) in sub_blocks.enumerate() {
        let scale = d * f32::from(q3_scale(&block[q3_k::SCALES..q3_k::D], j));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * signed(level, 4);
        }
    }
}

#[inline]
fn q4_k(block: &[u8; q4_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let levels = levels_of_4_bits(&block[q4_k::QS..]);
    above_min(&block[..q4_k::QS], &levels, out);
}

#[inline]
fn q5_k(block: &[u8; q5_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = levels_of_4_bits(&block[q5_k::QS..]);
    for (bit, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (level, high) in levels.iter_mut().zip(&block[q5_k::QH..q5_k::QS]) {
            *level |= (high >> bit & 1) << 4;
        }
    }
    above_min(&block[..q5_k::QH], &levels, out);
}

#[inline]
fn q6_k(block: &[u8; q6_k::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, q6_k::D);
    let mut levels = levels_of_2_bits(&block[q6_k::QH..q6_k::SCALES]);
    for (levels, packed) in levels.as_chunks_mut::<128>().0.iter_mut().zip(block[..q6_k::QH].as_chunks::<64>().0) {
        for (l, packed) in packed.iter().enumerate() {
            levels[l] = levels[l] << 4 | packed & 0xf;
            levels[l + 64] = levels[l + 64] << 4 | packed >> 4;
        }
    }
    let sub_blocks = out.as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<16>().0);
    for ((out, levels), scale) in sub_blocks.zip(&block[q6_k::SCALES..q6_k::D]) {
        let scale = d * f32::from(scale.cast_signed());
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * signed(level, 32);
        }
    }
}

/// The weights of Q4_K and Q5_K, from the head that they have in common.
#[inline]
fn above_min(head: &[u8], levels: &[u8; SUPER_BLOCK], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin) = (f16(head, q4_k::D), f16(head, q4_k::DMIN));
    let mut packed = [0; 12];
    packed.copy_from_slice(&head[q4_k::SCALES..]);
    let sub_blocks = out.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<32>().0);
    for (j, (out, levels)) in sub_blocks.enumerate() {
        let (scale, min) = scale_and_min(&packed, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (out, &level) in out.iter_mut().zip(levels) {
            *out = scale * f32::from(level) - min;
        }
    }
}

/// A level of a type without minima, which counts from `-half`.
#[inline]
fn signed(level: u8, half: i8) -> f32 {
    f32::from(level.cast_signed() - half)
}

#[inline]
fn levels_of_5_bits(block: &[u8], qh: usize, qs: usize) -> [u8; BLOCK] {
    let high = u32::from_le_bytes([block[qh], block[qh + 1], block[qh + 2], block[qh + 3]]);
    std::array::from_fn(|j| {
        let packed = block[qs + j % 16];
        let low = if j < 16 { packed & 0xf } else { packed >> 4 };
        low | if high >> j & 1 == 0 { 0 } else { 16 }
    })
}

#[inline]
fn levels_of_4_bits(packed: &[u8]) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    for (levels, packed) in levels.as_chunks_mut::<64>().0.iter_mut().zip(packed.as_chunks::<32>().0) {
        for (l, packed) in packed.iter().enumerate() {
            (levels[l], levels[l + 32]) = (packed & 0xf, packed >> 4);
        }
    }
    levels
}

#[inline]
fn levels_of_2_bits(packed: &[u8]) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    for (levels, packed) in levels.as_chunks_mut::<128>().0.iter_mut().zip(packed.as_chunks::<32>().0) {
        for (l, packed) in packed.iter().enumerate() {
            levels[l] = packed & 3;
            levels[l + 32] = packed >> 2 & 3;
            levels[l + 64] = packed >> 4 & 3;
            levels[l + 96] = packed >> 6;
        }
    }
    levels
}
