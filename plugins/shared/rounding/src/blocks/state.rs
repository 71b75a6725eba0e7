//! The rows at work.

use std::ops::Range;

use half::f16;

use super::{
    Blocks,
    scheme::{Nearest, Scheme},
};
use crate::{Curvature, TILE, simd::Lanes};

/// The rows at work; columns are in the order in which they are rounded.
pub(super) struct State<V> {
    pub(super) scheme: Scheme,
    pub(super) nearest: V,
    /// The weights.
    pub(super) weights: Vec<Lanes>,
    /// The values of their codes.
    pub(super) values: Vec<Lanes>,
    /// Weights less what stands for them.
    pub(super) errors: Vec<Lanes>,
    /// `S` of every sub-block.
    pub(super) scales: Vec<Lanes>,
    /// `M` of every sub-block.
    pub(super) minima: Vec<Lanes>,
    /// `d` of every block.
    pub(super) d: Vec<Lanes>,
    /// `m` of every block.
    pub(super) m: Vec<Lanes>,
    /// The loss of every row.
    pub(super) loss: [f64; TILE],
}

/// What the weights of a sub-block are: `scale · v + offset`.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) scale: Lanes,
    pub(super) offset: Lanes,
}

impl Affine {
    /// What the weights are divided by to find their values: nothing of a scale that is none.
    #[inline(always)]
    pub(super) fn inverse(&self) -> Lanes {
        Lanes::of(|lane| if self.scale.0[lane] == 0.0 { 0.0 } else { 1.0 / self.scale.0[lane] })
    }
}

impl<V: Nearest> State<V> {
    pub(super) fn new(scheme: Scheme, nearest: V, weights: Vec<Lanes>) -> Self {
        let width = weights.len();
        let (of_sub_blocks, of_blocks) = (width / scheme.size, width / scheme.columns());
        Self {
            scheme,
            nearest,
            values: vec![Lanes::ZERO; width],
            errors: vec![Lanes::ZERO; width],
            weights,
            scales: vec![Lanes([1.0; TILE]); of_sub_blocks],
            minima: vec![Lanes([1.0; TILE]); of_sub_blocks],
            d: vec![Lanes::ZERO; of_blocks],
            m: vec![Lanes::ZERO; of_blocks],
            loss: [0.0; TILE],
        }
    }

    /// How many blocks a row has.
    pub(super) fn blocks(&self) -> usize {
        self.d.len()
    }

    /// The sub-blocks of a block.
    pub(super) fn sub_blocks(&self, block: usize) -> Range<usize> {
        block * self.scheme.count..(block + 1) * self.scheme.count
    }

    /// The columns of a block.
    pub(super) fn columns_of_block(&self, block: usize) -> Range<usize> {
        block * self.scheme.columns()..(block + 1) * self.scheme.columns()
    }

    /// The columns of a sub-block.
    pub(super) fn columns_of(&self, sub_block: usize) -> Range<usize> {
        sub_block * self.scheme.size..(sub_block + 1) * self.scheme.size
    }

    /// What the weights of a sub-block are.
    #[inline(always)]
    pub(super) fn affine(&self, sub_block: usize) -> Affine {
        let block = sub_block / self.scheme.count;
        let (scales, minima) = (&self.scales[sub_block], &self.minima[sub_block]);
        let (d, m) = (&self.d[block], &self.m[block]);
        Affine {
            scale: Lanes::of(|lane| d.0[lane] * scales.0[lane]),
            offset: Lanes::of(|lane| -m.0[lane] * minima.0[lane]),
        }
    }

    /// The rows as they are stored.
    pub(super) fn take(self, curvature: &Curvature, rows: usize, energy: &[f64; TILE]) -> Blocks {
        let (width, of_sub_blocks, of_blocks) = (self.weights.len(), self.scales.len(), self.d.len());
        let mut blocks = Blocks {
            codes: vec![0; rows * width],
            scales: vec![0; rows * of_sub_blocks],
            minima: vec![0; rows * of_sub_blocks],
            d: vec![f16::ZERO; rows * of_blocks],
            m: vec![f16::ZERO; rows * of_blocks],
            loss: self.loss[..rows].iter().sum::<f64>() * curvature.unit(),
            energy: energy[..rows].iter().sum::<f64>() * curvature.unit(),
        };
        for (values, &column) in self.values.iter().zip(&curvature.columns) {
            for row in 0..rows {
                blocks.codes[row * width + column] = self.nearest.place(values.0[row]);
            }
        }
        let file_place = |place: usize, size: usize| curvature.columns[place * size] / size;
        for (place, (scales, minima)) in self.scales.iter().zip(&self.minima).enumerate() {
            let place = file_place(place, self.scheme.size);
            for row in 0..rows {
                #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
                let scale = scales.0[row] as i8;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
                let minimum = minima.0[row] as u8;
                blocks.scales[row * of_sub_blocks + place] = scale;
                blocks.minima[row * of_sub_blocks + place] = minimum;
            }
        }
        for (place, (d, m)) in self.d.iter().zip(&self.m).enumerate() {
            let place = file_place(place, self.scheme.columns());
            for row in 0..rows {
                blocks.d[row * of_blocks + place] = f16::from_f32(d.0[row]);
                blocks.m[row * of_blocks + place] = f16::from_f32(m.0[row]);
            }
        }
        blocks
    }
}
