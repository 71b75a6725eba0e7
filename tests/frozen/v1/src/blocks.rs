//! Blocks of 4-bit codes: an f16 scale, then two codes in each byte, the first in the low bits.

use half::f16;

/// Weights of a block.
pub(crate) const BLOCK: usize = 32;

/// Bytes of a block.
pub(crate) const BYTES: usize = 18;

/// Blocks of weights, rounded to nearest.
pub(crate) fn of(weights: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(weights.len() / BLOCK * BYTES);
    for weights in weights.as_chunks::<BLOCK>().0 {
        let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let scale = f16::from_f32(largest / 7.0);
        let step = scale.to_f32();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a code before")]
        let code = |weight: f32| {
            if step == 0.0 { 8 } else { ((weight / step).round() + 8.0).clamp(0.0, 15.0) as u8 }
        };
        bytes.extend(scale.to_le_bytes());
        bytes.extend(weights.as_chunks::<2>().0.iter().map(|[low, high]| code(*low) | code(*high) << 4));
    }
    bytes
}

/// The weights of blocks.
pub(crate) fn weights(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (pair, out) in block[2..].iter().zip(out.as_chunks_mut::<2>().0) {
            *out = [pair & 15, pair >> 4].map(|code| scale * (f32::from(code) - 8.0));
        }
    }
}
