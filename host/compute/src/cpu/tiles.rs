//! A matrix that several threads write to at once, each its own rectangle.
#![expect(unsafe_code, reason = "rectangles of a row-major matrix are no slices")]

use std::{marker::PhantomData, ops::Range};

/// A row-major matrix lent out in pieces of rows.
pub(super) struct Tiles<'a, T> {
    first: *mut T,
    rows: usize,
    columns: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, and whoever takes pieces of it promises that they do not overlap.
unsafe impl<T: Send> Sync for Tiles<'_, T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Send for Tiles<'_, T> {}

impl<'a, T> Tiles<'a, T> {
    pub(super) fn new(matrix: &'a mut [T], columns: usize) -> Self {
        Self { first: matrix.as_mut_ptr(), rows: matrix.len() / columns.max(1), columns, matrix: PhantomData }
    }

    /// Where a piece of a row starts, to be fetched; the rows end somewhere.
    pub(super) fn address(&self, row: usize, column: usize) -> *const T {
        self.first.wrapping_add(row * self.columns + column)
    }

    /// A piece of a row.
    ///
    /// # Safety
    /// No other thread takes a piece that overlaps it while this one is in use.
    #[expect(clippy::mut_from_ref, reason = "that pieces do not overlap is the caller's promise")]
    pub(super) unsafe fn piece(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.columns, "within the matrix");
        // SAFETY: it is within the matrix, which is borrowed exclusively for as long as `self` lives.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.columns + columns.start), columns.len()) }
    }
}
