//! Groups of weights that are rounded each for itself, where nothing is known of the inputs: the best scale of many, and
//! to it the nearest codes.

use half::f16;

use crate::{
    Grid, Tile,
    search::{self, Scratch},
    simd::{Job, Lanes, Simd, TILE, run},
    tile::{byte, range},
};

/// Rounds neighbouring weights in groups of `size`, as many as fill `weights`; each counts as much as any other, and so
/// many scales are tried for each group. Rows of a matrix may follow each other where groups divide them.
///
/// The loss is that of the weights themselves.
///
/// # Panics
/// Panics when `weights` are not whole groups.
#[must_use]
pub fn round_groups(grid: Grid, candidates: usize, size: usize, weights: &[f32]) -> Tile {
    run(Rounding { grid, candidates, size, weights })
}

struct Rounding<'a> {
    grid: Grid,
    candidates: usize,
    size: usize,
    weights: &'a [f32],
}

impl Job for Rounding<'_> {
    type Output = Tile;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Tile {
        let Self { grid, candidates, size, weights } = self;
        assert!(size > 0 && weights.len().is_multiple_of(size), "whole groups");
        let count = weights.len() / size;
        let mut tile = Tile {
            codes: vec![0; weights.len()],
            scales: Vec::with_capacity(count),
            zeros: Vec::with_capacity(count),
            loss: 0.0,
            energy: 0.0,
        };
        let equal = vec![1.0; size];
        let mut scratch = Scratch::default();
        for (weights, codes) in weights.chunks(TILE * size).zip(tile.codes.chunks_mut(TILE * size)) {
            let groups = weights.len() / size;
            let of_place =
                |place: usize| Lanes::of(|lane| if lane < groups { weights[lane * size + place] } else { 0.0 });
            scratch.targets.clear();
            scratch.targets.extend((0..size).map(of_place));
            let (scale, zero) = search::search::<S>(grid, candidates, &scratch.targets, &equal);
            for lane in 0..groups {
                let (scale, zero) = (scale.0[lane], zero.0[lane]);
                let (low, high) = range(grid, zero);
                let of_group = weights[lane * size..][..size].iter().zip(&mut codes[lane * size..][..size]);
                for (weight, code) in of_group {
                    let nearest = S::round((weight * (1.0 / scale)).max(low).min(high));
                    *code = byte(nearest + zero);
                    tile.loss += f64::from(weight - scale * nearest).powi(2);
                    tile.energy += f64::from(*weight).powi(2);
                }
                tile.scales.push(f16::from_f32(scale));
                tile.zeros.push(byte(zero));
            }
        }
        tile
    }
}
