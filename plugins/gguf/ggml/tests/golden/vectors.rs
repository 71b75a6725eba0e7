//! The golden file's format: one line per block type and distribution.

use crate::inputs::{IMPORTANCES, Make, Random};

/// The weights of a line: 256 super-blocks, always the same ones.
pub(crate) fn weights(make: Make) -> Vec<f32> {
    make(&mut Random::new(2026), 1 << 16)
}

/// The importance of the columns in the lines that have one: the rows of those weights are as long.
pub(crate) fn columns() -> Vec<f32> {
    let (_, make) = IMPORTANCES[0];
    make(&mut Random::new(1126), 1 << 12)
}

/// A line: type, distribution, a hash over all bytes (64-bit FNV-1a), and the first block in
/// hexadecimal, for eyes.
pub(crate) fn line(block_type: &str, distribution: &str, bytes: &[u8], block_bytes: usize) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let digits = |byte: &u8| [byte >> 4, byte & 0xf].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    let first: String = bytes[..block_bytes].iter().flat_map(digits).collect();
    format!("{block_type} {distribution} {hash:016x} {first}")
}

/// Blocks of random bytes, always the same ones for a type.
pub(crate) fn blocks(number: u32, block_bytes: u64) -> Vec<u8> {
    let mut random = Random::new(3000 + u64::from(number));
    (0..1024 * block_bytes).map(|_| random.bits(8).to_le_bytes()[0]).collect()
}

/// The bytes of weights, of which every NaN is the same.
pub(crate) fn canonical(weights: &[f32]) -> Vec<u8> {
    let canonical = |weight: &f32| if weight.is_nan() { f32::NAN } else { *weight };
    weights.iter().flat_map(|weight| canonical(weight).to_le_bytes()).collect()
}

/// The lines of a file, without its comments.
pub(crate) fn parse(file: &str) -> Vec<&str> {
    file.lines().filter(|line| !line.starts_with('#')).collect()
}
