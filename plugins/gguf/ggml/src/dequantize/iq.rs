//! The IQ types: levels out of codebooks, or out of a table of uneven steps.

use super::grids;
use crate::layout::{
    BLOCK, SUPER_BLOCK, UNEVEN, f16, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, u16_at,
};

/// By how much all levels of a group of IQ1_S and IQ1_M are shifted (`IQ1S_DELTA`).
const DELTA: f32 = 0.125;

#[inline]
pub(crate) fn iq2_xxs(block: &[u8; iq2_xxs::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq2_xxs::D);
    let parts = block[iq2_xxs::QS..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for ([a, b, c, e, tail @ ..], out) in parts {
        let scale = d * (0.5 + f32::from(tail[3] >> 4)) * 0.25;
        for ((l, index), out) in [a, b, c, e].into_iter().enumerate().zip(out.as_chunks_mut().0) {
            with_signs(scale, grids::IQ2_XXS[usize::from(*index)], seven_signs(*tail, l), out);
        }
    }
}

#[inline]
pub(crate) fn iq2_xs(block: &[u8; iq2_xs::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq2_xs::D);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = quarter(d, block[iq2_xs::SCALES + group / 4], group);
        let packed = u16_at(block, iq2_xs::QS + 2 * group);
        let [_, high] = packed.to_le_bytes();
        with_signs(scale, grids::IQ2_XS[usize::from(packed & 511)], even(high >> 1), out);
    }
}

#[inline]
pub(crate) fn iq2_s(block: &[u8; iq2_s::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq2_s::D);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = quarter(d, block[iq2_s::SCALES + group / 4], group);
        let high = usize::from(block[iq2_s::QH + group / 4] >> (2 * (group % 4)) & 3);
        let index = usize::from(block[iq2_s::QS + group]) | high << 8;
        with_signs(scale, grids::IQ2_S[index], block[iq2_s::SIGNS + group], out);
    }
}

#[inline]
pub(crate) fn iq3_xxs(block: &[u8; iq3_xxs::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq3_xxs::D);
    let tails = block[iq3_xxs::SCALES_AND_SIGNS..].as_chunks::<4>().0;
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let tail = tails[group / 4];
        let scale = d * (0.5 + f32::from(tail[3] >> 4)) * 0.5;
        let entry = |half: usize| &grids::IQ3_XXS[usize::from(block[iq3_xxs::QS + 2 * group + half])];
        halves_with_signs(scale, [entry(0), entry(1)], seven_signs(tail, group % 4), out);
    }
}

#[inline]
pub(crate) fn iq3_s(block: &[u8; iq3_s::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq3_s::D);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let part = group / 4;
        let scale = block[iq3_s::SCALES + part / 2] >> (4 * (part % 2)) & 0xf;
        let scale = d * f32::from(1 + 2 * scale);
        let entry = |half: usize| {
            let high = usize::from(block[iq3_s::QH + part] >> (2 * (group % 4) + half) & 1);
            &grids::IQ3_S[usize::from(block[iq3_s::QS + 2 * group + half]) | high << 8]
        };
        halves_with_signs(scale, [entry(0), entry(1)], block[iq3_s::SIGNS + group], out);
    }
}

#[inline]
pub(crate) fn iq1_s(block: &[u8; iq1_s::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq1_s::D);
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = u16_at(block, iq1_s::QH + 2 * (group / 4));
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let index = usize::from(block[iq1_s::QS + group]) | usize::from(high >> (3 * (group % 4)) & 7) << 8;
        shifted(scale, grids::IQ1[index], high & 0x8000 != 0, out);
    }
}

#[inline]
pub(crate) fn iq1_m(block: &[u8; iq1_m::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = crate::float::from_f16(iq1_m::d_bits(block));
    for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = u16_at(block, iq1_m::SCALES + 2 * (group / 8)) >> (3 * (group / 2 % 4)) & 7;
        let scale = d * f32::from(2 * scale + 1);
        let high = block[iq1_m::QH + group / 2] >> (4 * (group % 2));
        let index = usize::from(block[iq1_m::QS + group]) | usize::from(high & 7) << 8;
        shifted(scale, grids::IQ1[index], high & 8 != 0, out);
    }
}

#[inline(always)]
pub(crate) fn iq4_nl(block: &[u8; iq4_nl::BYTES], out: &mut [f32; BLOCK]) {
    uneven(f16(block, iq4_nl::D), &block[iq4_nl::QS..], out);
}

#[inline(always)]
pub(crate) fn iq4_xs(block: &[u8; iq4_xs::BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let d = f16(block, iq4_xs::D);
    let high = u16_at(block, iq4_xs::SCALES_HIGH);
    let parts = block[iq4_xs::QS..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for (part, (packed, out)) in parts.enumerate() {
        let low = block[iq4_xs::SCALES_LOW + part / 2] >> (4 * (part % 2)) & 0xf;
        let scale = u16::from(low) | (high >> (2 * part) & 3) << 4;
        uneven(d * (f32::from(scale) - 32.0), packed, out);
        super::apart();
    }
}

/// The scale of a group of eight among those of 32 weights, two of which share four bits.
#[inline]
fn quarter(d: f32, scales: u8, group: usize) -> f32 {
    d * (0.5 + f32::from(scales >> (4 * (group / 2 % 2)) & 0xf)) * 0.25
}

/// Seven bits of signs, and the eighth that makes the number of negative weights even.
#[inline]
fn even(seven: u8) -> u8 {
    if seven.count_ones().is_multiple_of(2) { seven } else { seven | 0x80 }
}

/// The signs of a group among the 28 bits that four groups share.
#[inline]
fn seven_signs(packed: [u8; 4], group: usize) -> u8 {
    let [seven, ..] = (u32::from_le_bytes(packed) >> (7 * group) & 127).to_le_bytes();
    even(seven)
}

#[inline]
fn sign(signs: u8, place: usize) -> f32 {
    if signs >> place & 1 == 0 { 1.0 } else { -1.0 }
}

#[inline]
fn with_signs(scale: f32, levels: [i8; 8], signs: u8, out: &mut [f32; 8]) {
    for (place, (out, level)) in out.iter_mut().zip(levels).enumerate() {
        *out = scale * f32::from(level) * sign(signs, place);
    }
}

#[inline]
fn halves_with_signs(scale: f32, halves: [&[i8; 4]; 2], signs: u8, out: &mut [f32; 8]) {
    for (place, (out, level)) in out.iter_mut().zip(halves.into_iter().flatten()).enumerate() {
        *out = scale * f32::from(*level) * sign(signs, place);
    }
}

#[inline]
fn shifted(scale: f32, levels: [i8; 8], down: bool, out: &mut [f32; 8]) {
    let delta = if down { -DELTA } else { DELTA };
    for (out, level) in out.iter_mut().zip(levels) {
        *out = scale * (f32::from(level) + delta);
    }
}

#[inline(always)]
fn uneven(scale: f32, packed: &[u8], out: &mut [f32; 32]) {
    for (j, packed) in packed.iter().enumerate() {
        out[j] = scale * f32::from(UNEVEN[usize::from(packed & 0xf)]);
        out[j + 16] = scale * f32::from(UNEVEN[usize::from(packed >> 4)]);
    }
}
