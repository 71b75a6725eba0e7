//! Sums of magnitudes and squares of columns.

use rayon::prelude::*;

use super::simd::{Job, Simd};

/// Columns that one thread takes at a time, at least.
const COLUMNS: usize = 128;

/// Adds `Σ|x|` and `Σx²` of every column, row by row.
pub(super) struct Moments<'a> {
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    pub(super) absolute: &'a mut [f64],
    pub(super) squares: &'a mut [f64],
}

impl Job for Moments<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let taken = self.width.div_ceil(4 * rayon::current_num_threads()).max(COLUMNS);
        let columns = self.absolute.par_chunks_mut(taken).zip(self.squares.par_chunks_mut(taken));
        columns.enumerate().for_each(|(piece, (absolute, squares))| {
            simd.vectorize(|| {
                for x in self.x.chunks_exact(self.width) {
                    let x = &x[piece * taken..][..absolute.len()];
                    for ((x, absolute), square) in x.iter().zip(&mut *absolute).zip(&mut *squares) {
                        let x = f64::from(*x);
                        *absolute += x.abs();
                        *square += x * x;
                    }
                }
            });
        });
    }
}
