//! Matrix products by tiles.
//!
//! The sum of an output is the same whatever tile it is in: terms in order, `DEPTH` at a time.
#![expect(unsafe_code, reason = "threads write rectangles of one matrix")]

use std::ops::{AddAssign, Range};

use bytemuck::Pod;
use rayon::prelude::*;

use super::{
    pack::{DEPTH, Operand, Packed},
    scratch,
    simd::{Job, Simd},
    tiles::Tiles,
};
use crate::Stored;

/// Rows that are packed at a time, at most.
const ROWS: usize = 2048;

/// Numbers that are packed at a time, unless that were too few rows.
const PACKED: usize = 8 << 20;

/// Rows and columns that a thread computes at a time, where there is enough for all threads: the packed rows
/// and the sums stay in its cache.
const BLOCK: (usize, usize) = (1024, 128);

/// Rows that an output is fetched ahead: each is on a page of its own, which no cache foresees.
const AHEAD: usize = 8;

/// `x Wᵀ + bias`.
pub(super) struct Linear<'a> {
    pub(super) x: &'a [f32],
    pub(super) weights: Stored<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
}

impl Job for Linear<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let (inputs, outputs) = (self.weights.inputs, self.weights.outputs);
        let weights = Operand::stored(self.weights);
        let rows = (PACKED / inputs).clamp(BLOCK.0, ROWS);
        for (x, out) in self.x.chunks(rows * inputs).zip(self.out.chunks_mut(rows * outputs)) {
            let x = Operand::rows(x, inputs);
            let packed = x.packed(simd);
            let tiles = Tiles::new(out, outputs);
            cut::<S>(x.lanes, outputs).into_par_iter().for_each(|(rows, columns)| {
                let fetch = |row, columns: &Range<usize>| simd.fetch(tiles.address(row, columns.start), columns.len());
                rectangle(
                    simd,
                    &packed,
                    weights,
                    &rows,
                    &columns,
                    |_, _| true,
                    fetch,
                    |row, columns, sums| {
                        // SAFETY: no two rectangles overlap.
                        let out = unsafe { tiles.piece(row, columns.clone()) };
                        match self.bias {
                            Some(bias) => {
                                let pairs = sums.iter().zip(&bias[columns]);
                                out.iter_mut().zip(pairs).for_each(|(out, (sum, bias))| *out = sum + bias);
                            }
                            None => out.copy_from_slice(sums),
                        }
                    },
                );
            });
        }
    }
}

/// Adds the lower triangle of `xᵀx`.
pub(super) struct Gram<'a, T> {
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    pub(super) sums: &'a mut [T],
}

impl<T: Sum> Job for Gram<'_, T> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let tiles = Tiles::new(self.sums, self.width);
        for x in self.x.chunks(ROWS * self.width) {
            let x = Operand::rows(x, self.width).turned();
            let packed = x.packed(simd);
            let lower = cut::<S>(self.width, self.width).into_par_iter();
            lower.filter(|(rows, columns)| columns.start < rows.end).for_each(|(rows, columns)| {
                let needed = |row_end: usize, column: usize| column < row_end;
                let fetch = |row, columns: &Range<usize>| simd.fetch(tiles.address(row, columns.start), columns.len());
                rectangle(simd, &packed, x, &rows, &columns, needed, fetch, |row, columns, sums| {
                    let columns = columns.start..columns.end.min(row + 1).max(columns.start);
                    // SAFETY: no two rectangles overlap.
                    let gram = unsafe { tiles.piece(row, columns) };
                    gram.iter_mut().zip(sums).for_each(|(gram, sum): (&mut T, &T)| *gram += *sum);
                });
            });
        }
    }
}

/// Adds `aᵀb`.
pub(super) struct Cross<'a> {
    pub(super) a: &'a [f32],
    pub(super) height: usize,
    pub(super) b: &'a [f32],
    pub(super) width: usize,
    pub(super) sums: &'a mut [f32],
}

impl Job for Cross<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let tiles = Tiles::new(self.sums, self.width);
        for (a, b) in self.a.chunks(ROWS * self.height).zip(self.b.chunks(ROWS * self.width)) {
            let packed = Operand::rows(a, self.height).turned().packed(simd);
            let b = Operand::rows(b, self.width).turned();
            cut::<S>(self.height, self.width).into_par_iter().for_each(|(rows, columns)| {
                let fetch = |row, columns: &Range<usize>| simd.fetch(tiles.address(row, columns.start), columns.len());
                rectangle(
                    simd,
                    &packed,
                    b,
                    &rows,
                    &columns,
                    |_, _| true,
                    fetch,
                    |row, columns, sums| {
                        // SAFETY: no two rectangles overlap.
                        let out = unsafe { tiles.piece(row, columns) };
                        out.iter_mut().zip(sums).for_each(|(out, sum): (&mut f32, &f32)| *out += *sum);
                    },
                );
            });
        }
    }
}

/// What sums are added up in.
pub(super) trait Sum: Send + Pod + AddAssign {
    /// Whether it is `f64`: the sums of `DEPTH` terms are then added in it.
    const WIDE: bool;
}

impl Sum for f32 {
    const WIDE: bool = false;
}

impl Sum for f64 {
    const WIDE: bool = true;
}

/// Rectangles of an output, enough of them for all threads where it is large enough.
fn cut<S: Simd>(rows: usize, columns: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let enough = 8 * rayon::current_num_threads();
    let (mut height, mut width) = (BLOCK.0.next_multiple_of(S::ROWS), BLOCK.1);
    while rows.div_ceil(height) * columns.div_ceil(width) < enough && width > S::COLUMNS {
        width /= 2;
    }
    while rows.div_ceil(height) * columns.div_ceil(width) < enough && height > 4 * S::ROWS {
        height = (height / 2).next_multiple_of(S::ROWS);
    }
    let starts = (0..columns).step_by(width).flat_map(|column| (0..rows).step_by(height).map(move |row| (row, column)));
    starts.map(|(row, column)| (row..(row + height).min(rows), column..(column + width).min(columns))).collect()
}

/// One rectangle of `left · rightᵀ`; `rows` starts at a panel of `left`.
///
/// `needed` tells, of the end of a tile's rows and the start of its columns, whether the tile is computed;
/// `fetch` is told of a row some time before; `finish` gets the sums of a piece of a row.
#[expect(clippy::too_many_arguments, reason = "they are the operands of a product")]
fn rectangle<S: Simd, T: Sum>(
    simd: S,
    left: &Packed,
    right: Operand<'_>,
    rows: &Range<usize>,
    columns: &Range<usize>,
    needed: impl Fn(usize, usize) -> bool,
    fetch: impl Fn(usize, &Range<usize>),
    finish: impl Fn(usize, Range<usize>, &[T]),
) {
    let height = rows.len().next_multiple_of(S::ROWS);
    let strips = columns.len().div_ceil(S::COLUMNS);
    let count = strips * height * S::COLUMNS;
    scratch::with([count, DEPTH * S::COLUMNS, if T::WIDE { 2 * count } else { 0 }], |[sums, panel, kept]| {
        sums.fill(0.0);
        kept.fill(0.0);
        for block in 0..right.depth.div_ceil(DEPTH) {
            let depths = block * DEPTH..((block + 1) * DEPTH).min(right.depth);
            let right = right.part(0..columns.end).cut(depths.clone());
            for (strip, sums) in sums.chunks_mut(height * S::COLUMNS).enumerate() {
                let column = columns.start + strip * S::COLUMNS;
                if !needed(rows.end, column) {
                    continue;
                }
                let panel = &mut panel[..depths.len() * S::COLUMNS];
                right.panel(simd, column, S::COLUMNS, panel);
                for (tile, sums) in sums.chunks_mut(S::ROWS * S::COLUMNS).enumerate() {
                    let row = rows.start + tile * S::ROWS;
                    let count = S::ROWS.min(rows.end - row);
                    if needed(row + count, column) {
                        simd.multiply(left.panel(block, row / S::ROWS), panel, sums, S::COLUMNS, count);
                    }
                }
            }
            if T::WIDE {
                let kept: &mut [f64] = bytemuck::cast_slice_mut(kept);
                simd.vectorize(|| {
                    for (kept, sum) in kept.iter_mut().zip(&mut *sums) {
                        *kept += f64::from(*sum);
                        *sum = 0.0;
                    }
                });
            }
        }
        let sums: &[T] = if T::WIDE { bytemuck::cast_slice(kept) } else { bytemuck::cast_slice(sums) };
        for row in rows.clone() {
            if row + AHEAD < rows.end {
                fetch(row + AHEAD, columns);
            }
            for (strip, sums) in sums.chunks(height * S::COLUMNS).enumerate() {
                let first = columns.start + strip * S::COLUMNS;
                let columns = first..(first + S::COLUMNS).min(columns.end);
                finish(row, columns.clone(), &sums[(row - rows.start) * S::COLUMNS..][..columns.len()]);
            }
        }
    });
}

/// The same tile again and again.
pub(super) struct Spin {
    pub(super) rounds: usize,
}

impl Job for Spin {
    type Output = usize;

    fn run<S: Simd>(self, simd: S) -> usize {
        let operations = 2 * S::ROWS * S::COLUMNS * DEPTH * self.rounds;
        scratch::with([S::ROWS * DEPTH, S::COLUMNS * DEPTH, S::ROWS * S::COLUMNS], |[a, b, c]| {
            a.fill(0.0);
            b.fill(0.0);
            for _ in 0..self.rounds {
                simd.multiply(a, b, c, S::COLUMNS, S::ROWS);
            }
        });
        operations
    }
}
