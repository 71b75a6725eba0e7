//! Products of `f64` matrices by tiles, within one matrix or between several.
//!
//! Every element is summed in the order of its terms, `DEPTH` at a time, on any number of threads.
#![expect(unsafe_code, reason = "threads write rectangles of one matrix")]

use std::ops::Range;

use rayon::prelude::*;

use super::{pack::DEPTH, simd::Simd, tiles::Tiles};

/// Rows and columns that a thread computes at a time.
const BLOCK: (usize, usize) = (168, 128);

/// Products too small to be worth a second thread.
const SMALL: usize = 1 << 17;

/// Where a matrix lies in numbers: its first one, and the way to the next lane and to the next depth.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) first: usize,
    pub(super) lane: usize,
    pub(super) depth: usize,
}

impl View {
    /// The rows of a row-major matrix from `(row, column)` on as lanes.
    pub(super) fn rows(stride: usize, row: usize, column: usize) -> Self {
        Self { first: row * stride + column, lane: stride, depth: 1 }
    }

    /// Its columns as lanes.
    pub(super) fn columns(stride: usize, row: usize, column: usize) -> Self {
        Self { first: row * stride + column, lane: 1, depth: stride }
    }
}

/// An operand: numbers of its own, or those that the product is written into.
pub(super) type Source<'a> = (Option<&'a [f64]>, View);

/// `target ± left · rightᵀ`, of which the parts that are known to be 0 or not wanted are left out.
pub(super) struct Product<'a> {
    pub(super) left: Source<'a>,
    pub(super) right: Source<'a>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    /// Whether the product is subtracted.
    pub(super) minus: bool,
    /// Whether it takes the target's place; the depth is then no more than `DEPTH` if the target is an operand.
    pub(super) replace: bool,
    /// Whether only the lower triangle is wanted.
    pub(super) lower: bool,
    /// Which depths are not 0, for the given rows and columns.
    pub(super) depths: fn(&Range<usize>, &Range<usize>) -> (usize, usize),
}

/// All depths.
pub(super) fn whole(_: &Range<usize>, _: &Range<usize>) -> (usize, usize) {
    (0, usize::MAX)
}

/// Memory for packed operands.
#[derive(Default)]
pub(super) struct Workspace {
    left: Vec<f64>,
    right: Vec<f64>,
}

impl Product<'_> {
    /// Computes it into the row-major matrix `stride` wide, from `(row, column)` on.
    pub(super) fn run<S: Simd>(
        &self,
        simd: S,
        workspace: &mut Workspace,
        target: &mut [f64],
        stride: usize,
        (row, column): (usize, usize),
    ) {
        let width = S::COLUMNS / 2;
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        let (mut height, mut breadth) = (BLOCK.0, BLOCK.1);
        let enough = 4 * rayon::current_num_threads();
        while self.rows.div_ceil(height) * self.columns.div_ceil(breadth) < enough && breadth > width {
            breadth /= 2;
        }
        while self.rows.div_ceil(height) * self.columns.div_ceil(breadth) < enough && height > S::ROWS {
            height = (height / 2).next_multiple_of(S::ROWS);
        }
        let starts = (0..self.rows)
            .step_by(height)
            .flat_map(|row| (0..self.columns).step_by(breadth).map(move |column| (row, column)));
        let wanted: Vec<_> = starts
            .map(|(row, column)| (row..(row + height).min(self.rows), column..(column + breadth).min(self.columns)))
            .filter(|(rows, columns)| !self.lower || columns.start < rows.end)
            .collect();
        for block in (0..self.depth.max(1)).step_by(DEPTH) {
            let depths = block..(block + DEPTH).min(self.depth);
            let (left, right) = (self.left.0.unwrap_or(target), self.right.0.unwrap_or(target));
            pack(left, self.left.1, self.rows, &depths, S::ROWS, self.minus, &mut workspace.left);
            pack(right, self.right.1, self.columns, &depths, width, false, &mut workspace.right);
            let tiles = Tiles::new(target, stride);
            let fresh = self.replace && block == 0;
            let compute = |(rows, columns): &(Range<usize>, Range<usize>)| {
                let fetch = |i, columns: &Range<usize>| {
                    simd.fetch(tiles.address(row + i, column + columns.start), columns.len());
                };
                self.rectangle(simd, workspace, &depths, rows, columns, fetch, |i, columns, sums| {
                    // SAFETY: no two rectangles overlap, and the operands have been packed before.
                    let out = unsafe { tiles.piece(row + i, column + columns.start..column + columns.end) };
                    if fresh {
                        out.copy_from_slice(sums);
                    } else {
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                    }
                });
            };
            if self.rows * self.columns * depths.len() < SMALL {
                wanted.iter().for_each(compute);
            } else {
                wanted.par_iter().for_each(compute);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the operands of a product")]
    fn rectangle<S: Simd>(
        &self,
        simd: S,
        workspace: &Workspace,
        depths: &Range<usize>,
        rows: &Range<usize>,
        columns: &Range<usize>,
        fetch: impl Fn(usize, &Range<usize>),
        add: impl Fn(usize, Range<usize>, &[f64]),
    ) {
        let width = S::COLUMNS / 2;
        let mut sums = [0.0; MOST];
        for column in columns.clone().step_by(width) {
            let columns = column..(column + width).min(columns.end);
            let right = &workspace.right[column * depths.len()..][..width * depths.len()];
            for row in rows.clone().step_by(S::ROWS) {
                let rows = row..(row + S::ROWS).min(rows.end);
                let (first, end) = (self.depths)(&rows, &columns);
                if self.lower && columns.start >= rows.end {
                    continue;
                }
                rows.clone().for_each(|row| fetch(row, &columns));
                let sums = &mut sums[..S::ROWS * width];
                sums.fill(0.0);
                if first < depths.end && end > depths.start {
                    let left = &workspace.left[row * depths.len()..][..S::ROWS * depths.len()];
                    simd.multiply_wide(left, right, sums, width, rows.len());
                } else if !(self.replace && depths.start == 0) {
                    continue;
                }
                simd.vectorize(|| {
                    for (i, sums) in rows.zip(sums.chunks_exact(width)) {
                        let wanted = if self.lower { columns.end.min(i + 1).max(columns.start) } else { columns.end };
                        add(i, columns.start..wanted, &sums[..wanted - columns.start]);
                    }
                });
            }
        }
    }
}

/// Numbers of the largest tile.
const MOST: usize = 14 * 16;

/// Panels `[depths, width]` of all lanes, the last filled up with 0.
fn pack(data: &[f64], view: View, lanes: usize, depths: &Range<usize>, width: usize, minus: bool, out: &mut Vec<f64>) {
    let length = lanes.next_multiple_of(width) * depths.len();
    if out.len() < length {
        out.resize(length, 0.0);
    }
    let sign = if minus { -1.0 } else { 1.0 };
    let fill = |(panel, out): (usize, &mut [f64])| {
        let first = panel * width;
        let taken = (lanes - first).min(width);
        if taken < width {
            out.fill(0.0);
        }
        let start = view.first + first * view.lane + depths.start * view.depth;
        if view.depth == 1 {
            for lane in 0..taken {
                let row = &data[start + lane * view.lane..][..depths.len()];
                out[lane..].iter_mut().step_by(width).zip(row).for_each(|(out, number)| *out = sign * number);
            }
        } else {
            for (k, out) in out.chunks_mut(width).enumerate() {
                let row = &data[start + k * view.depth..][..taken];
                out.iter_mut().zip(row).for_each(|(out, number)| *out = sign * number);
            }
        }
    };
    let panel = (width * depths.len()).max(1);
    if length < SMALL {
        out[..length].chunks_mut(panel).enumerate().for_each(fill);
    } else {
        out[..length].par_chunks_mut(panel).enumerate().for_each(fill);
    }
}
