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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the package makes of code `i` = `(73 i + i / 5) mod 2^b`, for `i` below 111: as 3 rows of 37, packed along the
    /// inputs, and as 37 rows of 3, packed along the outputs.
    ///
    /// Made by compressed-tensors 0.20.0 with torch 2.15.0:
    /// `i = torch.arange(111); c = (((i * 73 + i // 5) & ((1 << b) - 1)) - (1 << (b - 1))).to(torch.int8)`,
    /// `pack_to_int32(c.reshape(3, 37), b)`, `pack_to_int32(c.reshape(37, 3), b, packed_dim=0)`.
    #[expect(clippy::unreadable_literal, reason = "words of codes")]
    const PACKED: [(u32, &[u32], &[u32]); 7] = [
        (
            2,
            &[
                0x8e4938e4, 0x4938e493, 0x0000038e, 0x924e3924, 0x4e3924e3, 0x00000392, 0x938e4938, 0x8e4938e4,
                0x00000093,
            ],
            &[
                0xabc05abc, 0xf016af01, 0x05abc05a, 0xc05abc05, 0x16af016a, 0xabc05abc, 0x000001ab, 0x000002f0,
                0x00000005,
            ],
        ),
        (
            3,
            &[
                0x111f4688, 0x8d6343eb, 0xb111f468, 0x0000343e, 0x3e8d11ac, 0xc687d622, 0x23e8d11a, 0x00007d62,
                0x1a2358d0, 0x0fac447d, 0xd1a2358d, 0x00004447,
            ],
            &[
                0x043565d8, 0x4e59f821, 0x97620a72, 0x8829cb3f, 0x1ab2ec41, 0x2cfc10d5, 0xf043565d, 0x14e59f82,
                0x597620a7, 0x00001cb3, 0x00002ec4, 0x0000410d,
            ],
        ),
        (
            4,
            &[
                0x07e4b290, 0xa07e5c29, 0x3a18e5c3, 0xd4a18f6c, 0x000b28f6, 0x4b2906d4, 0xe5c2907e, 0x8e5c3a07,
                0x18f6c3a1, 0x000f6d4a, 0x906d4b28, 0x2907e4b2, 0xc3a07e5c, 0x6c3a18e5, 0x0004a18f,
            ],
            &[
                0x15ae27b0, 0xae37c049, 0x38c059e2, 0xe26bf48c, 0x7b048d16, 0x049d26af, 0xaf38c059, 0x48c15ae2,
                0xd16ae37c, 0x7c049d26, 0x059e26bf, 0xae27b048, 0x00016ae3, 0x000af38c, 0x00048c15,
            ],
        ),
        (
            5,
            &[
                0xdc4dc920, 0xe2f24905, 0x1793502e, 0xdc9a8387, 0xed141c3c, 0x00b161e6, 0xc5981bb4, 0x2cc0fea2,
                0xea07f558, 0x5147aac1, 0x8a3f660f, 0x01fb349a, 0x2cd26e48, 0x77137248, 0xb8bc9241, 0xc5e4d40b,
                0x3726a0e1, 0x0145070f,
            ],
            &[
                0x54e95f60, 0xa77e0089, 0x3802a5d2, 0xb7d31c09, 0x4c742653, 0xd1194f9e, 0x42b9f08c, 0xebc23ae1,
                0x0cec8533, 0x56d7c686, 0x7f22191a, 0x886c6daf, 0xbf0044b6, 0x0152e95b, 0x53a57d80, 0x001329d3,
                0x00a7cf1c, 0x014c7025,
            ],
        ),
        (
            6,
            &[
                0xa46d2240, 0xc489037b, 0x280dee95, 0x78ba5713, 0xf99c4ca0, 0x754281e2, 0x0b0b8be6, 0xb9c26754,
                0x09de50b0, 0x795302e7, 0x4c0fac27, 0x3eb1a1e5, 0xc687d630, 0x1f58d13a, 0x8d13bca8, 0x4ef2a605,
                0xca981738, 0xa05ce17c, 0x8385f33a, 0x1bccea85, 0x34aa160f,
            ],
            &[
                0xae4b76c0, 0xf7700909, 0x00949b92, 0x4e1c0652, 0xd0662ae4, 0x62af4f87, 0x78298bbd, 0x9cbc14e1,
                0xc14e5d0a, 0xe8330579, 0x3157a782, 0xba7839cc, 0xdc96e9f0, 0x6edf1283, 0x01283715, 0x5fc804a4,
                0x805a4ec9, 0xa8ec97ee, 0x211aa3b3, 0x2a3f363c, 0x3463c845,
            ],
        ),
        (
            7,
            &[
                0x4b64a480, 0x4900df72, 0xbee4b709, 0x6e139401, 0x280b8dc9, 0x1bd35c27, 0xba525017, 0xb04e37a6,
                0x00000004, 0x9e09ae94, 0xde292c13, 0x60273c13, 0xb827bc56, 0x78acc06e, 0x80dd7151, 0xe2a2f969,
                0xf2d3423a, 0x00000005, 0xd08ef928, 0xf25380b4, 0x0179c11d, 0x82bce4a7, 0xcd5602f3, 0x26270579,
                0x0cf39aac, 0x45584c4f, 0x00000007,
            ],
            &[
                0xe24ded80, 0x7b801249, 0x04b27712, 0x5c029656, 0xa695b89b, 0x6f26e2e0, 0x34bde51c, 0x81471740,
                0xcdd049a5, 0x0ab9bc09, 0xaf024f2f, 0xd3cce051, 0x7c1a899c, 0xa26712ae, 0xc4b3abc0, 0x33791675,
                0x459ddf08, 0x7802289b, 0x2ef30045, 0xc0154cee, 0x553b9177, 0x10caa773, 0xa9fccc3c, 0x430f3085,
                0x00000006, 0x00000002, 0x00000007,
            ],
        ),
        (
            8,
            &[
                0xdb924900, 0x00b76e24, 0x25dc9249, 0x4a00b76e, 0x6e25dc93, 0x934a01b8, 0xb86f26dc, 0xdd944a01,
                0x02b86f26, 0x0000004b, 0x7026dd94, 0x944b02b9, 0xb97027de, 0xde954c02, 0x03ba7027, 0x28de954c,
                0x4c03ba71, 0x7128df96, 0x964d04ba, 0x000000df, 0x04bb7228, 0x29e0964d, 0x4e04bb72, 0x7229e097,
                0x974e05bc, 0xbc732ae0, 0xe1984e05, 0x06bc732a, 0x2ae1984f, 0x00000074,
            ],
            &[
                0x92b7db00, 0xdc002449, 0x25496e92, 0x01254a6e, 0x4a6e93b7, 0x93b8dc00, 0x6f94b8dc, 0xb8dd0126,
                0x02264a6f, 0xde02264b, 0x274b7094, 0x7094b9dd, 0x4c7095b9, 0x95bade02, 0xde03274c, 0xbadf0328,
                0x04284c71, 0x4d7196ba, 0x294d7296, 0x7296bbdf, 0xbbe00428, 0x97bce004, 0xe005294e, 0x2a4e7297,
                0x062a4e73, 0x4f7398bc, 0x98bce105, 0x000000e1, 0x0000002a, 0x00000074,
            ],
        ),
    ];

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    fn codes(bits: u32) -> Vec<u8> {
        let largest = (1_u32 << bits) - 1;
        (0..111_u32).map(|i| u8::try_from((73 * i + i / 5) & largest).unwrap()).collect()
    }

    #[test]
    fn words_are_those_of_the_package() {
        for (bits, of_codes, of_zeros) in PACKED {
            assert_eq!(words(&pack_codes(&codes(bits), 37, bits)), of_codes, "{bits} bits");
            assert_eq!(words(&pack_zeros(&codes(bits), 3, bits)), of_zeros, "{bits} bits");
        }
    }

    #[test]
    fn zero_points_are_read_as_they_were_packed() {
        for bits in 2..=8 {
            let (zeros, packed) = (codes(bits), pack_zeros(&codes(bits), 3, bits));
            for (index, zero) in zeros.into_iter().enumerate() {
                let found = crate::read::stored_zero(&packed, (index % 3, 3), bits, index / 3);
                assert_eq!(found, zero, "{bits} bits, {index}");
            }
        }
    }
}
