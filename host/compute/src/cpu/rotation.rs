//! Rotation of heads by their positions.

use rayon::prelude::*;

use super::{
    elementwise::PIECE,
    simd::{Job, Simd},
};
use crate::Rotation;

/// Rotates in place.
pub(super) struct Rotate<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) positions: &'a [u32],
    pub(super) rotation: &'a Rotation<'a, Vec<f32>>,
    /// Numbers in a row.
    pub(super) width: usize,
}

impl Job for Rotate<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { rotation, width, .. } = self;
        let rows = (PIECE / width).max(1);
        self.x.par_chunks_mut(rows * width).zip(self.positions.par_chunks(rows)).for_each(|(x, positions)| {
            simd.vectorize(|| {
                for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
                    rotate(row, position as usize, rotation);
                }
            });
        });
    }
}

#[inline(always)]
fn rotate(row: &mut [f32], position: usize, rotation: &Rotation<'_, Vec<f32>>) {
    let half = rotation.dimensions / 2;
    let cosines = &rotation.cosines[position * half..][..half];
    let sines = &rotation.sines[position * half..][..half];
    for head in row.chunks_exact_mut(rotation.head) {
        let turned = &mut head[rotation.first..][..2 * half];
        if rotation.interleaved {
            for ((pair, cosine), sine) in turned.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines) {
                let [x, y] = *pair;
                *pair = [x * cosine - y * sine, y * cosine + x * sine];
            }
        } else {
            let (first, second) = turned.split_at_mut(half);
            for (((first, second), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let (x, y) = (*first, *second);
                *first = x * cosine - y * sine;
                *second = y * cosine + x * sine;
            }
        }
    }
}
