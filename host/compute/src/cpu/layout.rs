//! Moving rows and columns.
#![expect(unsafe_code, reason = "threads write rectangles of one matrix")]

use rayon::prelude::*;

use super::{
    elementwise::PIECE,
    simd::{Job, Simd},
    tiles::Tiles,
};
use crate::Columns;

/// Some columns of `x`, `width` wide.
pub(super) fn columns(x: &[f32], width: usize, columns: Columns, out: &mut [f32]) {
    let rows = (PIECE / width).max(1);
    out.par_chunks_mut(rows * columns.width()).zip(x.par_chunks(rows * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(columns.width()).zip(x.chunks_exact(width)) {
            for (piece, out) in out.chunks_exact_mut(columns.take).enumerate() {
                out.copy_from_slice(&x[columns.first + piece * columns.stride..][..columns.take]);
            }
        }
    });
}

/// Writes columns into `out`, `width` wide.
pub(super) fn place(out: &mut [f32], width: usize, columns: Columns, x: &[f32]) {
    let rows = (PIECE / width).max(1);
    out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * columns.width())).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(columns.width())) {
            for (piece, x) in x.chunks_exact(columns.take).enumerate() {
                out[columns.first + piece * columns.stride..][..columns.take].copy_from_slice(x);
            }
        }
    });
}

/// Some rows of `x`, `width` wide.
pub(super) fn gather(x: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    let taken = (PIECE / width).max(1);
    out.par_chunks_mut(taken * width).zip(rows.par_chunks(taken)).for_each(|(out, rows)| {
        for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
    });
}

/// Adds rows to rows.
pub(super) struct ScatterAdd<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) width: usize,
    pub(super) rows: &'a [u32],
    pub(super) factors: &'a [f32],
    pub(super) x: &'a [f32],
}

impl Job for ScatterAdd<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { width, rows, factors, x, .. } = self;
        let tiles = Tiles::new(self.out, width);
        // By columns: should a row be named twice after all, one thread adds to it in turn.
        let taken = width.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(64);
        (0..width).into_par_iter().step_by(taken).for_each(|column| {
            let columns = column..(column + taken).min(width);
            simd.vectorize(|| {
                for ((&row, factor), x) in rows.iter().zip(factors).zip(x.chunks_exact(width)) {
                    // SAFETY: no other thread has these columns.
                    let out = unsafe { tiles.piece(row as usize, columns.clone()) };
                    out.iter_mut().zip(&x[columns.clone()]).for_each(|(out, x)| *out += factor * x);
                }
            });
        });
    }
}
