//! Codes, scales, zero-points and groups as the tensors of the format have them.
//!
//! Codes are a stream of bits, the lowest first, in words of 32, each output's for itself; the last word need not be full.
//! Zero-points are the same along the outputs, for each group. In the package's words codes are signed numbers, and what is
//! packed is more by half of their range: that is the code here, so that nothing is to be added. It knows no files.

use qhost_linears::{Module, Part};
use qhost_rounding::f16;

/// Bytes of a word.
const WORD: usize = 4;

/// The places of a module's tensors in its order.
pub(crate) const CODES: u32 = 0;
/// The scales.
pub(crate) const SCALES: u32 = 1;
/// The lengths of the matrix.
pub(crate) const LENGTHS: u32 = 2;

/// The place of the zero-points, if the module has any.
pub(crate) fn zeros_part(module: &Module) -> Option<u32> {
    (!module.settings.symmetric).then_some(LENGTHS + 1)
}

/// The place of the group of every input, if it is stored.
pub(crate) fn order_part(module: &Module) -> Option<u32> {
    module.settings.act_order.then(|| zeros_part(module).unwrap_or(LENGTHS) + 1)
}

/// Words that so many codes take.
pub(crate) fn words(codes: u64, bits: u32) -> u64 {
    (codes * u64::from(bits)).div_ceil(32)
}

/// The tensors of a module, in this order.
pub(crate) fn parts(module: &Module) -> Vec<Part> {
    let (rows, columns, groups, bits) = (module.rows, module.columns, module.groups(), module.settings.bits);
    let mut parts = vec![
        Part::codes("weight_packed", "I32", vec![rows, words(columns, bits)], module),
        Part::beside("weight_scale", "F16", vec![rows, groups]),
        Part::beside("weight_shape", "I64", vec![2]),
    ];
    if zeros_part(module).is_some() {
        parts.push(Part::beside("weight_zero_point", "I32", vec![words(rows, bits), groups]));
    }
    if order_part(module).is_some() {
        parts.push(Part::beside("weight_g_idx", "I32", vec![columns]));
    }
    parts
}

/// The words of some codes, one after the other.
fn pack(codes: impl Iterator<Item = u8>, bits: u32, mut word: impl FnMut([u8; WORD])) {
    let (mut held, mut filled) = (0_u64, 0);
    let mut first = |held: u64| {
        let [a, b, c, d, ..] = held.to_le_bytes();
        word([a, b, c, d]);
    };
    for code in codes {
        held |= u64::from(code) << filled;
        filled += bits;
        if filled >= u32::BITS {
            first(held);
            (held, filled) = (held >> u32::BITS, filled - u32::BITS);
        }
    }
    if filled > 0 {
        first(held);
    }
}

/// Packs the codes of some outputs, each of `columns` inputs: rows of `weight_packed`.
pub(crate) fn pack_codes(codes: &[u8], columns: usize, bits: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(codes.len() * bits as usize / 8 + WORD);
    for row in codes.chunks_exact(columns.max(1)) {
        pack(row.iter().copied(), bits, |word| out.extend(word));
    }
    out
}

/// Packs zero-points, which are given output by output: the whole of `weight_zero_point`.
pub(crate) fn pack_zeros(zeros: &[u8], groups: usize, bits: u32) -> Vec<u8> {
    let rows = zeros.len() / groups.max(1);
    let of_column = (rows * bits as usize).div_ceil(32);
    let mut out = vec![0; of_column * groups * WORD];
    for group in 0..groups {
        let mut place = group * WORD;
        pack((0..rows).map(|row| zeros[row * groups + group]), bits, |word| {
            out[place..place + WORD].copy_from_slice(&word);
            place += groups * WORD;
        });
    }
    out
}

/// The scales, which are given output by output: the whole of `weight_scale`.
pub(crate) fn pack_scales(scales: &[f16]) -> Vec<u8> {
    scales.iter().flat_map(|scale| scale.to_le_bytes()).collect()
}

/// The lengths of a matrix: the whole of `weight_shape`.
pub(crate) fn pack_lengths(module: &Module) -> Vec<u8> {
    [module.rows, module.columns].iter().flat_map(|length| length.to_le_bytes()).collect()
}

/// The group of every input: the whole of `weight_g_idx`.
pub(crate) fn pack_order(groups: impl Iterator<Item = u32>) -> Vec<u8> {
    groups.flat_map(u32::to_le_bytes).collect()
}
