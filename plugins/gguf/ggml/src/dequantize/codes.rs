//! Blocks as codes with a scale and a zero point, or a minimum, for each group: the same weights in the words that other
//! formats share.
//!
//! What these are is `Encoding`'s of the plugin API to say. For every type here, scale · (code − zero) or
//! scale · code + minimum is, bit for bit, what the type is widened to.

use super::{k, legacy, ternary};
use crate::{
    GgmlType,
    layout::{BLOCK, SUPER_BLOCK, f16, q2_0, q2_k, q3_k, q3_scale, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0},
    layout::{scale_and_min, tq1_0, tq2_0},
};

/// How the groups of a type are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// The bits of a code.
    pub bits: u32,
    /// Weights of a group.
    pub size: usize,
    /// The zero point of every group; where there is none, groups have minima.
    pub zero: Option<u8>,
    /// The type that holds all scales and minima: a safetensors dtype.
    pub scales: &'static str,
}

/// Room for the codes of some blocks, and for the numbers of their groups.
pub struct Room<'a> {
    /// A code for each weight.
    pub codes: &'a mut [u8],
    /// The scale of each group.
    pub scales: &'a mut [f32],
    /// The zero point, or the minimum, of each group.
    pub offsets: &'a mut [f32],
}

type Unpack = fn(&[u8], &mut Room<'_>);

/// The types that have groups.
const GROUPED: [(&str, Grouping, Unpack); 13] = [
    ("Q4_0", around(4, BLOCK, 8, "F16"), |bytes, room| each(bytes, room, from_q4_0)),
    ("Q4_1", above(4, BLOCK, "F16"), |bytes, room| each(bytes, room, from_q4_1)),
    ("Q5_0", around(5, BLOCK, 16, "F16"), |bytes, room| each(bytes, room, from_q5_0)),
    ("Q5_1", above(5, BLOCK, "F16"), |bytes, room| each(bytes, room, from_q5_1)),
    ("Q8_0", around(8, BLOCK, 128, "F16"), |bytes, room| each(bytes, room, from_q8_0)),
    ("Q2_K", above(2, 16, "F32"), |bytes, room| each(bytes, room, from_q2_k)),
    ("Q3_K", around(3, 16, 4, "F32"), |bytes, room| each(bytes, room, from_q3_k)),
    ("Q4_K", above(4, 32, "F32"), |bytes, room| each(bytes, room, from_q4_k)),
    ("Q5_K", above(5, 32, "F32"), |bytes, room| each(bytes, room, from_q5_k)),
    ("Q6_K", around(6, 16, 32, "F32"), |bytes, room| each(bytes, room, from_q6_k)),
    ("TQ1_0", around(2, SUPER_BLOCK, 1, "F16"), |bytes, room| each(bytes, room, from_tq1_0)),
    ("TQ2_0", around(2, SUPER_BLOCK, 1, "F16"), |bytes, room| each(bytes, room, from_tq2_0)),
    ("Q2_0", around(2, q2_0::WEIGHTS, 1, "F16"), |bytes, room| each(bytes, room, from_q2_0)),
];

const fn around(bits: u32, size: usize, zero: u8, scales: &'static str) -> Grouping {
    Grouping { bits, size, zero: Some(zero), scales }
}

const fn above(bits: u32, size: usize, scales: &'static str) -> Grouping {
    Grouping { bits, size, zero: None, scales }
}

impl GgmlType {
    /// How its groups are; none for a type that has none of one step.
    pub fn grouping(self) -> Option<Grouping> {
        GROUPED.iter().find(|(name, ..)| *name == self.name).map(|(_, grouping, _)| *grouping)
    }

    /// Takes whole blocks apart; does nothing for a type without groups.
    pub fn unpack(self, bytes: &[u8], room: &mut Room<'_>) {
        if let Some((_, grouping, unpack)) = GROUPED.iter().find(|(name, ..)| *name == self.name) {
            if let Some(zero) = grouping.zero {
                room.offsets.fill(f32::from(zero));
            }
            unpack(bytes, room);
        }
    }
}

/// The place of one block's codes, and of its groups' scales and minima.
type Places<'a, const WEIGHTS: usize> = (&'a mut [u8; WEIGHTS], &'a mut [f32], &'a mut [f32]);

#[inline]
fn each<const BYTES: usize, const WEIGHTS: usize>(
    bytes: &[u8],
    room: &mut Room<'_>,
    unpack: impl Fn(&[u8; BYTES], Places<'_, WEIGHTS>),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    let groups = room.scales.len() / blocks.len().max(1);
    let numbers = room.scales.chunks_exact_mut(groups.max(1)).zip(room.offsets.chunks_exact_mut(groups.max(1)));
    for ((block, codes), (scales, offsets)) in blocks.iter().zip(room.codes.as_chunks_mut().0).zip(numbers) {
        unpack(block, (codes, scales, offsets));
    }
}

fn from_q4_0(block: &[u8; q4_0::BYTES], (codes, scales, _): Places<'_, BLOCK>) {
    *codes = legacy::levels_of_4_bits(block, q4_0::QS);
    scales.fill(f16(block, q4_0::D));
}

fn from_q4_1(block: &[u8; q4_1::BYTES], (codes, scales, minima): Places<'_, BLOCK>) {
    *codes = legacy::levels_of_4_bits(block, q4_1::QS);
    scales.fill(f16(block, q4_1::D));
    minima.fill(f16(block, q4_1::M));
}

fn from_q5_0(block: &[u8; q5_0::BYTES], (codes, scales, _): Places<'_, BLOCK>) {
    *codes = legacy::levels_of_5_bits(block, q5_0::QH, q5_0::QS);
    scales.fill(f16(block, q5_0::D));
}

fn from_q5_1(block: &[u8; q5_1::BYTES], (codes, scales, minima): Places<'_, BLOCK>) {
    *codes = legacy::levels_of_5_bits(block, q5_1::QH, q5_1::QS);
    scales.fill(f16(block, q5_1::D));
    minima.fill(f16(block, q5_1::M));
}

fn from_q8_0(block: &[u8; q8_0::BYTES], (codes, scales, _): Places<'_, BLOCK>) {
    codes.iter_mut().zip(&block[q8_0::QS..]).for_each(|(code, level)| *code = level ^ 0x80);
    scales.fill(f16(block, q8_0::D));
}

fn from_q2_k(block: &[u8; q2_k::BYTES], (codes, scales, minima): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_2_bits(&block[q2_k::QS..q2_k::D]);
    let (d, dmin) = (f16(block, q2_k::D), f16(block, q2_k::DMIN));
    let packed = &block[q2_k::SCALES..q2_k::QS];
    scales.iter_mut().zip(packed).for_each(|(scale, packed)| *scale = d * f32::from(packed & 0xf));
    minima.iter_mut().zip(packed).for_each(|(minimum, packed)| *minimum = -(dmin * f32::from(packed >> 4)));
}

fn from_q3_k(block: &[u8; q3_k::BYTES], (codes, scales, _): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_3_bits(block);
    let d = f16(block, q3_k::D);
    for (j, scale) in scales.iter_mut().enumerate() {
        *scale = d * f32::from(q3_scale(&block[q3_k::SCALES..q3_k::D], j));
    }
}

fn from_q4_k(block: &[u8; q4_k::BYTES], (codes, scales, minima): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_4_bits(&block[q4_k::QS..]);
    above_min(&block[..q4_k::QS], scales, minima);
}

fn from_q5_k(block: &[u8; q5_k::BYTES], (codes, scales, minima): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_5_bits(block);
    above_min(&block[..q5_k::QH], scales, minima);
}

fn from_q6_k(block: &[u8; q6_k::BYTES], (codes, scales, _): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_6_bits(block);
    let d = f16(block, q6_k::D);
    let packed = &block[q6_k::SCALES..q6_k::D];
    scales.iter_mut().zip(packed).for_each(|(scale, packed)| *scale = d * f32::from(packed.cast_signed()));
}

fn from_tq1_0(block: &[u8; tq1_0::BYTES], (codes, scales, _): Places<'_, SUPER_BLOCK>) {
    codes.iter_mut().zip(ternary::digits(block)).for_each(|(code, digit)| *code = digit);
    scales.fill(f16(block, tq1_0::D));
}

fn from_tq2_0(block: &[u8; tq2_0::BYTES], (codes, scales, _): Places<'_, SUPER_BLOCK>) {
    *codes = k::levels_of_2_bits(&block[tq2_0::QS..tq2_0::D]);
    scales.fill(f16(block, tq2_0::D));
}

fn from_q2_0(block: &[u8; q2_0::BYTES], (codes, scales, _): Places<'_, { q2_0::WEIGHTS }>) {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = block[q2_0::QS + j / 4] >> (2 * (j % 4)) & 3;
    }
    scales.fill(f16(block, q2_0::D));
}

/// Scales and minima out of the head that Q4_K and Q5_K have in common.
fn above_min(head: &[u8], scales: &mut [f32], minima: &mut [f32]) {
    let (d, dmin) = (f16(head, q4_k::D), f16(head, q4_k::DMIN));
    let mut packed = [0; 12];
    packed.copy_from_slice(&head[q4_k::SCALES..]);
    for (j, (place, minimum)) in scales.iter_mut().zip(minima).enumerate() {
        let (scale, min) = scale_and_min(&packed, j);
        (*place, *minimum) = (d * f32::from(scale), -(dmin * f32::from(min)));
    }
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::{documents::Encoding, sdk::Planes};

    use super::*;

    #[test]
    fn codes_with_their_scales_are_the_weights_to_the_bit() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        for (name, grouping, _) in GROUPED {
            let known = GgmlType::named(name).unwrap();
            let (weights, bytes) = (known.block_elements, usize::try_from(known.block_bytes).unwrap());
            let blocks = (0..).map(|_| (0..bytes).map(|_| random()).collect::<Vec<u8>>());
            let blocks = blocks.filter(|block| known.first_invalid_block(block).is_none()).take(300);
            let bytes: Vec<u8> = blocks.flatten().collect();
            let mut expected = vec![0.0; usize::try_from(weights).unwrap() * 300];
            known.dequantize(&bytes, &mut expected);
            let (size, scales) = (grouping.size as u64, grouping.scales);
            let encoding = match grouping.zero {
                Some(zero) => Encoding::affine(grouping.bits, size, [i64::from(zero); 2], scales),
                None => Encoding::minimum(grouping.bits, size, None, scales),
            };
            let mut planes = Planes::room(&encoding, 100, weights * 3).unwrap();
            known.unpack(
                &bytes,
                &mut Room { codes: &mut planes.bytes, scales: &mut planes.scales, offsets: &mut planes.offsets },
            );
            assert!(planes.bytes.iter().all(|code| u32::from(*code) < 1 << grouping.bits), "{name}");
            let mut found = vec![0.0; expected.len()];
            planes.weights(&mut found).unwrap();
            let wrong = expected.iter().zip(&found).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(wrong, None, "{name}: {:?}", wrong.map(|at| (expected[at], found[at])));
        }
    }
}
