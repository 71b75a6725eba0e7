//! The arithmetic: a row of weights as 8-bit integers and one scale. It knows no tensors and no files.

use qhost_plugin_api::sdk::narrow_to_bf16;

/// The largest integer; the range is symmetric, so that a row and its negative are rounded alike.
const LARGEST: f32 = 127.0;

/// Rounds a row of finite weights to nearest. Adds one integer for each weight to `codes`, and gives the scale as bf16.
pub(crate) fn round(row: &[f32], codes: &mut Vec<u8>) -> [u8; 2] {
    let largest = row
        .iter()
        .fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    // The scale is rounded to what is stored first: the integers then make up for that.
    let stored = narrow_to_bf16(largest / LARGEST).to_le_bytes();
    let scale = scale(stored);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to an i8 before")]
    codes.extend(
        row.iter().map(|weight| {
            ((weight / scale).round().clamp(-LARGEST, LARGEST) as i8).cast_unsigned()
        }),
    );
    narrow_to_bf16(scale).to_le_bytes()
}

/// The weights of a row.
pub(crate) fn widen(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (weight, code) in out.iter_mut().zip(codes) {
        *weight = scale * f32::from(code.cast_signed());
    }
}

/// A stored scale. That of a row of zeros is 1, so that nothing is ever divided by zero.
pub(crate) fn scale(stored: [u8; 2]) -> f32 {
    let scale = f32::from_bits(u32::from(u16::from_le_bytes(stored)) << 16);
    if scale == 0.0 { 1.0 } else { scale }
}
