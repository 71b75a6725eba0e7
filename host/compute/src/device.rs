//! What computes: the operations that a decoder and the statistics of its activations are made of.

use std::fmt::Debug;

use crate::{Activation, Attention, Columns, Norm, Rotation, Stored};

/// What can go wrong in arithmetic.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Operands that do not fit each other.
    #[error("{operation} of operands that do not fit: {detail}")]
    Shape {
        /// What was to be done.
        operation: &'static str,
        /// What does not fit.
        detail: String,
    },
    /// A symmetric matrix without a Cholesky factor.
    #[error("the matrix is not positive definite: pivot {pivot} of {order} is {value:e}")]
    NotPositiveDefinite {
        /// Which row.
        pivot: usize,
        /// Rows of the matrix.
        order: usize,
        /// What was left there.
        value: f64,
    },
    /// The device itself, in its driver's words.
    #[error("{0}")]
    Device(String),
}

/// What computes. Matrices are row-major; `rows` of activations are tokens.
pub trait Device: Sync {
    /// `f32` numbers on the device.
    type Buffer: Debug + Send + Sync;
    /// A matrix of weights on the device.
    type Matrix<'a>: Send + Sync;

    /// Brings numbers to the device.
    fn upload(&self, numbers: &[f32]) -> Result<Self::Buffer, Error>;

    /// Zeros.
    fn zeros(&self, length: usize) -> Result<Self::Buffer, Error>;

    /// How many numbers a buffer has.
    fn length(&self, buffer: &Self::Buffer) -> usize;

    /// Brings numbers back.
    fn download(&self, buffer: &Self::Buffer, out: &mut [f32]) -> Result<(), Error>;

    /// Brings all of them back, the last time; the CPU has them already.
    fn download_all(&self, buffer: Self::Buffer) -> Result<Vec<f32>, Error> {
        let mut numbers = vec![0.0; self.length(&buffer)];
        self.download(&buffer, &mut numbers)?;
        Ok(numbers)
    }

    /// Brings weights to the device; the CPU uses them where they are.
    fn matrix<'a>(&self, stored: Stored<'a>) -> Result<Self::Matrix<'a>, Error>;

    /// `x Wᵀ + bias`: `[rows, inputs]` becomes `[rows, outputs]`.
    fn linear(
        &self,
        x: &Self::Buffer,
        rows: usize,
        weights: &Self::Matrix<'_>,
        bias: Option<&Self::Buffer>,
    ) -> Result<Self::Buffer, Error>;

    /// Norms every group of numbers.
    fn norm(&self, x: &Self::Buffer, norm: &Norm<'_, Self::Buffer>) -> Result<Self::Buffer, Error>;

    /// Rotates heads in place; `positions` has the position of every row.
    fn rotate(
        &self,
        x: &mut Self::Buffer,
        positions: &[u32],
        rotation: &Rotation<'_, Self::Buffer>,
    ) -> Result<(), Error>;

    /// Causal softmax attention within each of the sequences, whose rows follow each other.
    ///
    /// `sinks` are logits, one for each query head, that take part in the softmax and give nothing.
    fn attention(
        &self,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        lengths: &[usize],
        shape: &Attention,
        sinks: Option<&Self::Buffer>,
    ) -> Result<Self::Buffer, Error>;

    /// `activation(gate) · up`, or the activation alone; the result takes the place of `gate`.
    fn activate(&self, gate: &mut Self::Buffer, up: Option<&Self::Buffer>, activation: Activation)
    -> Result<(), Error>;

    /// `y += factor · x`.
    fn add(&self, y: &mut Self::Buffer, factor: f32, x: &Self::Buffer) -> Result<(), Error>;

    /// `x *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32) -> Result<(), Error>;

    /// `x = cap · tanh(x / cap)`.
    fn soft_cap(&self, x: &mut Self::Buffer, cap: f32) -> Result<(), Error>;

    /// Some columns of a matrix `width` wide.
    fn columns(&self, x: &Self::Buffer, width: usize, columns: Columns) -> Result<Self::Buffer, Error>;

    /// Writes columns `[rows, columns.width()]` into a matrix `width` wide.
    fn place(&self, out: &mut Self::Buffer, width: usize, columns: Columns, x: &Self::Buffer) -> Result<(), Error>;

    /// Some rows of a matrix `width` wide, in the given order.
    fn gather(&self, x: &Self::Buffer, width: usize, rows: &[u32]) -> Result<Self::Buffer, Error>;

    /// Adds row `i` of `x`, times `factors[i]`, to row `rows[i]` of `out`; no row is named twice.
    fn scatter_add(
        &self,
        out: &mut Self::Buffer,
        width: usize,
        rows: &[u32],
        factors: &[f32],
        x: &Self::Buffer,
    ) -> Result<(), Error>;

    /// Adds the lower triangle of `xᵀx` to `gram`, `[width, width]`; what is above the diagonal stays.
    fn gram(&self, x: &Self::Buffer, width: usize, gram: &mut Self::Buffer) -> Result<(), Error>;

    /// The same with sums in `f64`, in memory.
    fn gram_f64(&self, x: &Self::Buffer, width: usize, gram: &mut [f64]) -> Result<(), Error>;

    /// Adds `aᵀb` to `sum`, `[height, width]`: `height` numbers are in a row of `a`, and `width` in a row of `b`.
    fn cross(
        &self,
        a: &Self::Buffer,
        b: &Self::Buffer,
        sizes: (usize, usize),
        sum: &mut Self::Buffer,
    ) -> Result<(), Error>;

    /// Adds `Σ|x|` and `Σx²` of every column.
    fn moments(&self, x: &Self::Buffer, width: usize, absolute: &mut [f64], squares: &mut [f64]) -> Result<(), Error>;

    /// The index of the first number that is not finite.
    fn first_not_finite(&self, x: &Self::Buffer) -> Result<Option<usize>, Error>;
}
