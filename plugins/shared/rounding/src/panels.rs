//! A square matrix in the order in which it is multiplied with: blocks of columns, in strips.

use std::ops::Range;

use crate::simd::{Lanes, STRIP, Simd};

/// Rows of a panel that are multiplied at a time: what they are multiplied with stays in the first cache.
const DEPTH: usize = 192;

/// The columns of a block, at most.
pub(crate) const BLOCK: usize = 128;

/// Blocks of columns, each with its first rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Panels {
    blocks: Vec<Block>,
}

/// Some columns of a matrix, `STRIP` at a time, from the first row on.
#[derive(Debug, Clone)]
struct Block {
    columns: Range<usize>,
    rows: usize,
    /// Strip after strip; columns that are not there are zero.
    numbers: Vec<[f32; STRIP]>,
}

impl Panels {
    /// Adds a block: `number` gives what is at a row and column.
    pub(crate) fn push(&mut self, columns: Range<usize>, rows: usize, number: impl Fn(usize, usize) -> f32) {
        let mut numbers = Vec::with_capacity(columns.len().div_ceil(STRIP) * rows);
        for strip in columns.clone().step_by(STRIP) {
            numbers.extend((0..rows).map(|row| {
                let mut of_row = [0.0; STRIP];
                for (out, column) in of_row.iter_mut().zip(strip..columns.end) {
                    *out = number(row, column);
                }
                of_row
            }));
        }
        self.blocks.push(Block { columns, rows, numbers });
    }

    /// Adds to the sums of a block's columns the products of some of its rows with `left`.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd>(
        &self,
        simd: S,
        block: usize,
        rows: Range<usize>,
        left: &[Lanes],
        sums: &mut [Lanes],
    ) {
        debug_assert_eq!(sums.len(), self.blocks[block].columns.len(), "a sum for every column");
        self.multiply_from(simd, (block, 0), rows, left, sums);
    }

    /// The same for some of a block's columns, from a whole number of strips on.
    #[inline(always)]
    pub(crate) fn multiply_from<S: Simd>(
        &self,
        simd: S,
        (block, column): (usize, usize),
        rows: Range<usize>,
        left: &[Lanes],
        sums: &mut [Lanes],
    ) {
        let block = &self.blocks[block];
        let first_strip = column / STRIP;
        for first in rows.clone().step_by(DEPTH) {
            let part = first..(first + DEPTH).min(rows.end);
            let strips = block.numbers.chunks_exact(block.rows).skip(first_strip);
            for (strip, sums) in strips.zip(sums.chunks_mut(STRIP)) {
                let (left, strip) = (&left[part.clone()], &strip[part.clone()]);
                if let Ok(sums) = <&mut [Lanes; STRIP]>::try_from(&mut *sums) {
                    simd.multiply(left, strip, sums);
                } else {
                    let mut all = [Lanes::ZERO; STRIP];
                    all[..sums.len()].copy_from_slice(sums);
                    simd.multiply(left, strip, &mut all);
                    sums.copy_from_slice(&all[..sums.len()]);
                }
            }
        }
    }

    /// What is at a row of a block, in the order of its columns from `from` on, given by place within the block.
    #[inline(always)]
    pub(crate) fn at(&self, block: usize, row: usize, column: usize) -> f32 {
        let block = &self.blocks[block];
        block.numbers[column / STRIP * block.rows + row][column % STRIP]
    }
}
