//! Linear algebra on whatever the host computes with: the service `compute/1`.

use super::{DType, Failure, HostHandle, Operand, OperandMut, Result, ServiceHandle};
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
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.bring(rows, columns, DType::F32, &bytes)
    }

    /// Brings a matrix in `f64` to the device.
    ///
    /// # Errors
    /// As [`Compute::upload`].
    pub fn upload_f64(&self, rows: u64, columns: u64, numbers: &[f64]) -> Result<Matrix> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.bring(rows, columns, DType::F64, &bytes)
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
        let bytes = self.bytes(DType::F32, 4)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
    }

    /// Brings the numbers back.
    ///
    /// # Errors
    /// Fails when it is in `f32`.
    pub fn download_f64(&self) -> Result<Vec<f64>> {
        if !self.double {
            return Err(Failure::internal("a matrix in f32 was asked for as f64"));
        }
        let bytes = self.bytes(DType::F64, 8)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw)).collect())
    }

    fn bytes(&self, dtype: DType, element: u64) -> Result<Vec<u8>> {
        let (rows, columns) = self.shape;
        let length = rows.checked_mul(columns).and_then(|numbers| usize::try_from(numbers.checked_mul(element)?).ok());
        let mut data = vec![0; length.ok_or_else(|| Failure::internal("more numbers than fit into memory"))?];
        let out = OperandMut { dtype, rows, row_elements: columns, data: &mut data };
        self.service.call("download", &self.handle, &[], &mut [out])?;
        Ok(data)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // A host that does not know it any more has nothing to free.
        let _ = self.service.call("free", &self.handle, &[], &mut []);
    }
}
