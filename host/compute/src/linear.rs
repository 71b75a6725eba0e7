//! Linear algebra of symmetric positive definite matrices in `f64`, on the CPU.
//!
//! Matrices are row-major and square; of a symmetric one the lower triangle is read. The results are the same
//! bits on any number of threads.

use crate::{
    Cpu, Error,
    cpu::factor::{Cholesky, Solve, Task, mirror},
};

impl Cpu {
    /// The lower triangular `L` with `L Lᵀ = A`, in the place of `A`; above the diagonal it is 0.
    ///
    /// # Errors
    /// [`Error::NotPositiveDefinite`]; the matrix is then partly overwritten.
    pub fn cholesky(&self, matrix: &mut [f64], order: usize) -> Result<(), Error> {
        self.work_on(matrix, order, Task::Factor)
    }

    /// `A⁻¹`, both triangles, in the place of `A`.
    ///
    /// # Errors
    /// As [`Self::cholesky`].
    pub fn inverse(&self, matrix: &mut [f64], order: usize) -> Result<(), Error> {
        self.work_on(matrix, order, Task::Inverse)
    }

    /// The upper triangular `U` with `Uᵀ U = A⁻¹`, in the place of `A`; below the diagonal it is 0.
    ///
    /// It is `J L⁻¹ J` with `L Lᵀ = J A J`, where `J` reverses the order of rows: one factor, and no inverse of
    /// the whole matrix.
    ///
    /// # Errors
    /// As [`Self::cholesky`]; the pivots are taken from the last row to the first.
    pub fn inverse_factor(&self, matrix: &mut [f64], order: usize) -> Result<(), Error> {
        square("inverse factor", matrix, order)?;
        mirror(matrix, order);
        matrix.reverse();
        let result = self.work_on(matrix, order, Task::InverseFactor);
        matrix.reverse();
        result.map_err(|error| match error {
            Error::NotPositiveDefinite { pivot, order, value } => {
                Error::NotPositiveDefinite { pivot: order - 1 - pivot, order, value }
            }
            other => other,
        })
    }

    /// `X` with `L X = B`, or with `Lᵀ X = B`, in the place of `B`, which is `[order, width]`.
    pub fn solve_lower(
        &self,
        factor: &[f64],
        order: usize,
        transposed: bool,
        right: &mut [f64],
        width: usize,
    ) -> Result<(), Error> {
        square("solve", factor, order)?;
        if right.len() != order * width {
            return Err(Error::Shape { operation: "solve", detail: format!("{} for {order}×{width}", right.len()) });
        }
        self.simd.run(Solve { factor, order, transposed, right, width });
        Ok(())
    }

    fn work_on(self, matrix: &mut [f64], order: usize, task: Task) -> Result<(), Error> {
        square("cholesky", matrix, order)?;
        self.simd.run(Cholesky { matrix, order, task })
    }
}

fn square(operation: &'static str, matrix: &[f64], order: usize) -> Result<(), Error> {
    if matrix.len() == order * order {
        return Ok(());
    }
    Err(Error::Shape { operation, detail: format!("{} for {order}×{order}", matrix.len()) })
}
