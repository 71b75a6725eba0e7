//! Operands in the order in which the tiles of a product read them.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    scratch::Memory,
    simd::{Rows, Simd},
};
use crate::{Dtype, Stored};

/// Terms that are summed in one go before they are added to the sum of those before; part of what a result is.
pub(super) const DEPTH: usize = 256;

/// A matrix, as `depth` numbers of each of its `lanes`; products sum over the depth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    pub(super) lanes: usize,
    pub(super) depth: usize,
    /// Bytes from a lane to the next, and from a number of a lane to the next.
    steps: (usize, usize),
}

impl<'a> Operand<'a> {
    /// Every row is a lane.
    pub(super) fn rows(x: &'a [f32], width: usize) -> Self {
        let rows = x.len() / width.max(1);
        Self { bytes: bytes(x), dtype: Dtype::F32, lanes: rows, depth: width, steps: (4 * width, 4) }
    }

    /// Every output of a linear is a lane.
    pub(super) fn stored(stored: Stored<'a>) -> Self {
        let size = stored.dtype.bytes();
        let steps = if stored.transposed { (size, stored.outputs * size) } else { (stored.inputs * size, size) };
        Self { bytes: stored.bytes, dtype: stored.dtype, lanes: stored.outputs, depth: stored.inputs, steps }
    }

    /// Every row is a lane, of the columns of a head.
    pub(super) fn head(x: &'a [f32], rows: Range<usize>, heads: usize, width: usize, head: usize) -> Self {
        let pitch = heads * width;
        let bytes = bytes(&x[rows.start * pitch..rows.end * pitch]);
        let bytes = &bytes[(4 * head * width).min(bytes.len())..];
        Self { bytes, dtype: Dtype::F32, lanes: rows.len(), depth: width, steps: (4 * pitch, 4) }
    }

    /// Lanes become depths.
    pub(super) fn turned(self) -> Self {
        Self { lanes: self.depth, depth: self.lanes, steps: (self.steps.1, self.steps.0), ..self }
    }

    /// Some of the lanes.
    pub(super) fn part(self, lanes: Range<usize>) -> Self {
        Self { bytes: &self.bytes[(lanes.start * self.steps.0).min(self.bytes.len())..], lanes: lanes.len(), ..self }
    }

    /// Some of the numbers of each lane.
    pub(super) fn cut(self, depths: Range<usize>) -> Self {
        Self { bytes: &self.bytes[(depths.start * self.steps.1).min(self.bytes.len())..], depth: depths.len(), ..self }
    }

    /// Writes a panel `[depth, width]` of the lanes from `first` on; those that there are not are 0.
    pub(super) fn panel<S: Simd>(&self, simd: S, first: usize, width: usize, out: &mut [f32]) {
        let taken = self.lanes.saturating_sub(first).min(width);
        if self.steps.1 == self.dtype.bytes() {
            for lane in (0..width).step_by(16) {
                let count = taken.saturating_sub(lane).min(16);
                let start = ((first + lane) * self.steps.0).min(self.bytes.len());
                let rows = Rows {
                    bytes: &self.bytes[start..],
                    dtype: self.dtype,
                    pitch: self.steps.0,
                    count,
                    depth: self.depth,
                    ahead: width * self.steps.0,
                };
                simd.interleave(rows, (width - lane).min(16), &mut out[lane..], width);
            }
        } else {
            simd.vectorize(|| self.copied(first, taken, width, out));
        }
    }

    #[inline(always)]
    fn copied(&self, first: usize, taken: usize, width: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        for (k, out) in out.chunks_exact_mut(width).enumerate().take(self.depth) {
            let raw = &self.bytes[k * self.steps.1 + first * size..][..taken * size];
            let (out, none) = out.split_at_mut(taken);
            widen(raw, self.dtype, out);
            none.fill(0.0);
        }
    }

    /// All of it, for the tiles' rows: for every [`DEPTH`] numbers the panels of all lanes, one after the other.
    pub(super) fn packed<S: Simd>(&self, simd: S) -> Packed {
        let panels = self.lanes.div_ceil(S::ROWS);
        let mut numbers = Memory::take(panels * S::ROWS * self.depth);
        let block = (panels * S::ROWS * DEPTH).max(1);
        numbers.par_chunks_mut(block).enumerate().for_each(|(block, numbers)| {
            let depths = block * DEPTH..((block + 1) * DEPTH).min(self.depth);
            let cut = self.cut(depths.clone());
            numbers.par_chunks_mut(S::ROWS * depths.len()).enumerate().for_each(|(panel, out)| {
                cut.panel(simd, panel * S::ROWS, S::ROWS, out);
            });
        });
        Packed { numbers, panels, width: S::ROWS, depth: self.depth }
    }
}

/// A packed operand.
pub(super) struct Packed {
    numbers: Memory,
    panels: usize,
    width: usize,
    depth: usize,
}

impl Packed {
    /// Panel `panel` of the numbers from `block · DEPTH` on.
    pub(super) fn panel(&self, block: usize, panel: usize) -> &[f32] {
        let depth = DEPTH.min(self.depth - block * DEPTH);
        &self.numbers[self.width * (block * DEPTH * self.panels + depth * panel)..][..self.width * depth]
    }
}

#[inline(always)]
fn widen(raw: &[u8], dtype: Dtype, out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            out.iter_mut().zip(raw.as_chunks::<4>().0).for_each(|(out, raw)| *out = f32::from_le_bytes(*raw));
        }
        Dtype::BF16 => out.iter_mut().zip(raw.as_chunks::<2>().0).for_each(|(out, raw)| {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
        }),
        Dtype::F16 => out.iter_mut().zip(raw.as_chunks::<2>().0).for_each(|(out, raw)| {
            *out = half(u16::from_le_bytes(*raw));
        }),
    }
}

/// A binary16 number, without a branch.
#[inline(always)]
fn half(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = bits & 0x7fff;
    // Moves the exponent's bias, subnormal numbers included.
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let special = f32::from_bits((magnitude << 13) | 0x7f80_0000);
    let number = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(number.to_bits() | (bits & 0x8000) << 16)
}

fn bytes(x: &[f32]) -> &[u8] {
    bytemuck::cast_slice(x)
}
