//! Rows of a source tensor, lent by the host.
#![expect(unsafe_code, reason = "a lease crosses the border as a pointer and a length")]

use std::ops::Range;

use super::{Failure, Result, UnitHandle, float};
use crate::abi::{DType, Lease};

/// Rows of a source tensor; given back to the host when dropped.
#[derive(Debug)]
pub struct Rows<'a> {
    unit: &'a UnitHandle,
    lease: Lease,
    tensor: u32,
    first_row: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(unit: &'a UnitHandle, lease: Lease, tensor: u32, first_row: u64) -> Self {
        Self { unit, lease, tensor, first_row }
    }

    /// How an element is stored.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.lease.dtype
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.lease.rows
    }

    /// Elements in a row.
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.lease.row_elements
    }

    /// The bytes, as the checkpoint stores them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        #[expect(clippy::cast_possible_truncation, reason = "the host has these bytes in its address space")]
        let length = self.lease.bytes as usize;
        if length == 0 {
            return &[];
        }
        // SAFETY: the contract of `Unit::lease`: `bytes` readable bytes at `data`, unchanged and valid on
        // every thread until the lease is released, which `drop` does, and `self` outlives the slice.
        unsafe { std::slice::from_raw_parts(self.lease.data, length) }
    }

    /// Widens all rows to `f32`, refusing values that are not finite.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming tensor, row and column, at the first NaN or infinity.
    pub fn widen(&self, out: &mut Vec<f32>) -> Result<()> {
        let elements = self.lease.rows * self.lease.row_elements;
        out.resize(usize::try_from(elements).map_err(|_| outside())?, 0.0);
        self.widen_from(0, out)
    }

    /// Fills `out` with some of the rows, counted from the first of the loan, as `f32`, refusing values that are not finite.
    ///
    /// # Errors
    /// As [`Rows::widen`]; with kind `INTERNAL` for rows that are not in the loan, or that do not fill `out`.
    pub fn widen_rows(&self, rows: &Range<u64>, out: &mut [f32]) -> Result<()> {
        if rows.start > rows.end || rows.end > self.lease.rows {
            return Err(outside());
        }
        let elements = (rows.end - rows.start) * self.lease.row_elements;
        if out.len() as u64 != elements {
            return Err(Failure::internal(format!("{} places for {elements} weights", out.len())));
        }
        self.widen_from(rows.start * self.lease.row_elements, out)
    }

    /// Widens some elements of one row to `f32`, refusing values that are not finite.
    ///
    /// # Errors
    /// As [`Rows::widen`]; with kind `INTERNAL` for elements that are not in the loan.
    pub fn widen_part(&self, row: u64, elements: &Range<u64>, out: &mut Vec<f32>) -> Result<()> {
        if row >= self.lease.rows || elements.start > elements.end || elements.end > self.lease.row_elements {
            return Err(outside());
        }
        out.resize(usize::try_from(elements.end - elements.start).map_err(|_| outside())?, 0.0);
        self.widen_from(row * self.lease.row_elements + elements.start, out)
    }

    /// Fills `out` with the elements from one on, counted through all rows.
    fn widen_from(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let size = self.lease.bytes.checked_div(self.lease.rows * self.lease.row_elements).unwrap_or(0);
        let start = usize::try_from(first * size).map_err(|_| outside())?;
        let length = usize::try_from(size).map_err(|_| outside())? * out.len();
        let bytes = self.bytes().get(start..).and_then(|bytes| bytes.get(..length)).ok_or_else(outside)?;
        let bad = float::widen_finite(self.lease.dtype, bytes, out)
            .map_err(|failure| failure.about(self.unit.tensor_name(self.tensor)))?;
        bad.map_or(Ok(()), |index| {
            let at = first + index as u64;
            Err(self.not_finite(out[index], at / self.lease.row_elements, at % self.lease.row_elements))
        })
    }

    fn not_finite(&self, value: f32, row: u64, column: u64) -> Failure {
        Failure::corrupt(format!("holds {value} at row {}, column {column}", self.first_row + row))
            .about(self.unit.tensor_name(self.tensor))
            .hint("the checkpoint is damaged or was saved from a diverged model: fetch it again, or fix the weight")
    }
}

fn outside() -> Failure {
    Failure::internal("elements outside of a loan")
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        self.unit.release(self.lease.id);
    }
}
