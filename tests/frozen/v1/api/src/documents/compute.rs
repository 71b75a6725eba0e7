//! The documents of `compute/1`: matrices that stay where they are computed with, and operations on them.
//!
//! Matrices are named by handles. They are row-major, in `f32` or `f64`.

use serde::{Deserialize, Serialize};

/// The request of `upload` (with the numbers as operand) and of `zeros`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MatrixRequest {
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Whether its numbers are `f64`, not `f32`.
    #[serde(default)]
    pub double: bool,
}

impl MatrixRequest {
    /// A matrix of this shape.
    #[must_use]
    pub fn new(rows: u64, columns: u64, double: bool) -> Self {
        Self { rows, columns, double }
    }
}

/// A matrix: the answer of `upload` and `zeros`, the request of `download` (with a place for the numbers) and `free`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MatrixHandle(pub u64);

/// The request of `batch`: operations, done in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchRequest {
    /// The operations.
    pub operations: Vec<Operation>,
}

impl BatchRequest {
    /// These operations.
    #[must_use]
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { operations }
    }
}

/// An operation. Where precision is not said, it is `f32`; results do not depend on the number of threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// `out += factor · a b`, or `factor · a bᵀ`.
    Product {
        /// `[m, k]`.
        a: MatrixHandle,
        /// `[k, n]`, or `[n, k]`.
        b: MatrixHandle,
        /// Whether `b` is transposed.
        transposed: bool,
        /// The factor.
        factor: f32,
        /// `[m, n]`.
        out: MatrixHandle,
    },
    /// Adds the lower triangle of `xᵀx` to `out`, which may be `f64`.
    Gram {
        /// `[rows, n]`.
        x: MatrixHandle,
        /// `[n, n]`.
        out: MatrixHandle,
    },
    /// `L` with `L Lᵀ = a`, in the place of `a`, in `f64`; the lower triangle of `a` is read.
    Cholesky {
        /// `[n, n]`.
        a: MatrixHandle,
    },
    /// `a⁻¹` in the place of `a`, in `f64`.
    Inverse {
        /// `[n, n]`, symmetric and positive definite.
        a: MatrixHandle,
    },
    /// The upper triangular `U` with `Uᵀ U = a⁻¹` in the place of `a`, in `f64`: what GPTQ works with.
    InverseFactor {
        /// `[n, n]`, symmetric and positive definite.
        a: MatrixHandle,
    },
    /// `x` with `l x = right`, or `lᵀ x = right`, in the place of `right`, in `f64`.
    SolveLower {
        /// `[n, n]`, lower triangular.
        l: MatrixHandle,
        /// Whether it is transposed.
        transposed: bool,
        /// `[n, m]`.
        right: MatrixHandle,
    },
    /// Copies numbers from one precision into the other, or the same.
    Convert {
        /// From here.
        from: MatrixHandle,
        /// To here, of the same shape.
        to: MatrixHandle,
    },
    /// `y += factor · x`, of one precision.
    Add {
        /// The sum.
        y: MatrixHandle,
        /// The factor.
        factor: f64,
        /// What is added.
        x: MatrixHandle,
    },
    /// `a *= factor`.
    Scale {
        /// The matrix.
        a: MatrixHandle,
        /// The factor.
        factor: f64,
    },
    /// Adds a number to the diagonal.
    AddToDiagonal {
        /// `[n, n]`.
        a: MatrixHandle,
        /// The number.
        number: f64,
    },
    /// One that was added to the API after this version.
    #[serde(other)]
    Other,
}

/// The request of `kernel`: code for a device. A host that computes elsewhere answers with kind `UNSUPPORTED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KernelRequest {
    /// `cuda`: CUDA C++.
    pub language: String,
    /// The code.
    pub source: String,
    /// The name of its entry.
    pub name: String,
}

impl KernelRequest {
    /// A kernel.
    pub fn new(language: impl Into<String>, source: impl Into<String>, name: impl Into<String>) -> Self {
        Self { language: language.into(), source: source.into(), name: name.into() }
    }
}
