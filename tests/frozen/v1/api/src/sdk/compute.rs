//! Linear algebra on whatever the host computes with: the service `compute/1`.

use super::{DType, Failure, HostHandle, Operand, OperandMut, Result, ServiceHandle, plain};
use crate::documents::{BatchRequest, MatrixHandle, MatrixRequest, Operation};

/// The service of the process that computes.
pub const COMPUTE: &str = "compute/1";

/// The host's arithmetic.
#[derive(Debug, Clone)]
pub struct Compute {
    service: ServiceHandle,
}

/// A matrix on the host's device, until dropped.
#[derive(Debug)]
pub struct Matrix {
    service: ServiceHandle,
    handle: MatrixHandle,
    shape: (u64, u64),
    double: bool,
}

impl HostHandle {
    /// The host's arithmetic, if it has some to offer.
    #[must_use]
    pub fn compute(&self) -> Option<Compute> {
        self.service(COMPUTE).map(|service| Compute { service })
    }
}

impl Compute {
    /// A matrix of zeros.
    ///
    /// # Errors
    /// Fails with kind `RESOURCES` when there is no memory for it.
    pub fn zeros(&self, rows: u64, columns: u64, double: bool) -> Result<Matrix> {
        let answer = self.service.call("zeros", &MatrixRequest::new(rows, columns, double), &[], &mut [])?;
        Ok(Matrix { service: self.service.clone(), handle: answer.value()?, shape: (rows, columns), double })
    }

    /// Brings a matrix in `f32` to the device.
    ///
    /// # Errors
    /// Fails when the numbers are not as many as the shape says, or there is no memory for them.
    pub fn upload(&self, rows: u64, columns: u64, numbers: &[f32]) -> Result<Matrix> {
        self.bring(rows, columns, DType::F32, &plain::little_endian(numbers))
    }

    /// Brings a matrix in `f64` to the device.
    ///
    /// # Errors
    /// As [`Compute::upload`].
    pub fn upload_f64(&self, rows: u64, columns: u64, numbers: &[f64]) -> Result<Matrix> {
        self.bring(rows, columns, DType::F64, &plain::little_endian(numbers))
    }

    fn bring(&self, rows: u64, columns: u64, dtype: DType, data: &[u8]) -> Result<Matrix> {
        let double = dtype == DType::F64;
        let operand = Operand { dtype, rows, row_elements: columns, data };
        let request = MatrixRequest::new(rows, columns, double);
        let handle = self.service.call("upload", &request, &[operand], &mut [])?.value()?;
        Ok(Matrix { service: self.service.clone(), handle, shape: (rows, columns), double })
    }

    /// Does operations, in their order.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when a matrix is not positive definite; with kind `PLUGIN` when shapes do not fit.
    pub fn batch(&self, operations: Vec<Operation>) -> Result<()> {
        self.service.call("batch", &BatchRequest::new(operations), &[], &mut []).map(drop)
    }
}

impl Matrix {
    /// Its name in operations.
    #[must_use]
    pub fn handle(&self) -> MatrixHandle {
        self.handle
    }

    /// Brings the numbers back.
    ///
    /// # Errors
    /// Fails when it is in `f64`.
    pub fn download(&self) -> Result<Vec<f32>> {
        if self.double {
            return Err(Failure::internal("a matrix in f64 was asked for as f32"));
        }
        plain::filled(self.count()?, |data| self.fill(DType::F32, data))
    }

    /// Brings the numbers back.
    ///
    /// # Errors
    /// Fails when it is in `f32`.
    pub fn download_f64(&self) -> Result<Vec<f64>> {
        if !self.double {
            return Err(Failure::internal("a matrix in f32 was asked for as f64"));
        }
        plain::filled(self.count()?, |data| self.fill(DType::F64, data))
    }

    fn count(&self) -> Result<usize> {
        let (rows, columns) = self.shape;
        let count = rows.checked_mul(columns).and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| Failure::internal("more numbers than fit into memory"))
    }

    fn fill(&self, dtype: DType, data: &mut [u8]) -> Result<()> {
        let (rows, columns) = self.shape;
        let out = OperandMut { dtype, rows, row_elements: columns, data };
        self.service.call("download", &self.handle, &[], &mut [out]).map(drop)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // A host that does not know it any more has nothing to free.
        let _ = self.service.call("free", &self.handle, &[], &mut []);
    }
}
