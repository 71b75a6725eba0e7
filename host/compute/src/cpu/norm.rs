//! Norms of groups of numbers.

use rayon::prelude::*;

use super::{
    elementwise::PIECE,
    simd::{Job, Simd},
};
use crate::NormKind;

/// Sums that are kept apart, so that they are lanes of vectors.
const LANES: usize = 32;

/// Norms in place.
pub(super) struct Normalize<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) kind: NormKind,
    pub(super) width: usize,
    pub(super) epsilon: f32,
    /// As long as a row, or empty.
    pub(super) gain: &'a [f32],
    /// What is added to the gain.
    pub(super) one: f32,
    pub(super) bias: &'a [f32],
    /// Numbers in a row.
    pub(super) row: usize,
}

impl Job for Normalize<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { kind, width, epsilon, gain, one, bias, row, .. } = self;
        let rows = (PIECE / row).max(1);
        self.out.par_chunks_mut(rows * row).for_each(|out| {
            simd.vectorize(|| {
                for out in out.chunks_exact_mut(row) {
                    for (group, x) in out.chunks_exact_mut(width).enumerate() {
                        let part = group * width..(group + 1) * width;
                        normalize::<S>(x, kind, epsilon);
                        if !gain.is_empty() {
                            x.iter_mut().zip(&gain[part.clone()]).for_each(|(x, gain)| *x *= gain + one);
                        }
                        if !bias.is_empty() {
                            x.iter_mut().zip(&bias[part]).for_each(|(x, bias)| *x += bias);
                        }
                    }
                }
            });
        });
    }
}

#[inline(always)]
fn normalize<S: Simd>(x: &mut [f32], kind: NormKind, epsilon: f32) {
    #[expect(clippy::cast_precision_loss, reason = "a width is far below 2²⁴")]
    let count = x.len() as f32;
    if kind == NormKind::Layer {
        let mean = sum(x, |sum, x| sum + x) / count;
        for x in &mut *x {
            *x -= mean;
        }
    }
    let square = sum(x, |sum, x| S::mul_add(x, x, sum)) / count;
    let factor = 1.0 / (square + epsilon).sqrt();
    for x in x {
        *x *= factor;
    }
}

/// A sum in a fixed order: each lane in turn, then the lanes.
#[inline(always)]
fn sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = add(*lane, *x);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    rest.iter().fold(lanes[0], |sum, x| add(sum, *x))
}
