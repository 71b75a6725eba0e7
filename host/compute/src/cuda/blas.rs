//! Products by cuBLAS, which takes matrices column by column: a row-major matrix is its own transpose there.
#![expect(unsafe_code, reason = "cuBLAS takes pointers")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::{
    cublas::{
        CudaBlas,
        result::CublasError,
        sys::{
            cublasDsyrk_v2,
            cublasFillMode_t::CUBLAS_FILL_MODE_UPPER,
            cublasHandle_t, cublasMath_t,
            cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T},
            cublasSetMathMode, cublasSgemm_v2, cublasSsyrk_v2,
        },
    },
    driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut},
};

use super::{Weights, fault};
use crate::Error;

/// A handle of cuBLAS, which one thread at a time may use.
#[derive(Debug)]
pub(super) struct Blas {
    handle: Mutex<CudaBlas>,
    stream: Arc<CudaStream>,
}

impl Blas {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        let handle = CudaBlas::new(stream.clone()).map_err(|error| failed("cuBLAS could not be started", error))?;
        // SAFETY: the handle is valid. The mode keeps tensor cores from rounding operands to TF32.
        unsafe { cublasSetMathMode(*handle.handle(), cublasMath_t::CUBLAS_PEDANTIC_MATH) }
            .result()
            .map_err(|error| failed("cuBLAS could not be started", error))?;
        Ok(Self { handle: Mutex::new(handle), stream: stream.clone() })
    }

    fn lock(&self) -> Result<MutexGuard<'_, CudaBlas>, Error> {
        self.stream.context().bind_to_thread().map_err(|error| fault("be used by this thread", error))?;
        Ok(self.handle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `x Wᵀ`; `x` has `rows · inputs` numbers, and `out` has room for `rows · outputs`.
    pub(super) fn product(
        &self,
        x: &CudaSlice<f32>,
        rows: usize,
        weights: &Weights,
        out: &mut CudaSlice<f32>,
    ) -> Result<(), Error> {
        let (n, inputs, outputs) = (whole(rows)?, whole(weights.inputs)?, whole(weights.outputs)?);
        let (operation, leading) = if weights.transposed { (CUBLAS_OP_N, outputs) } else { (CUBLAS_OP_T, inputs) };
        let guard = self.lock()?;
        let handle: cublasHandle_t = *guard.handle();
        let (w, _w) = weights.numbers.device_ptr(&self.stream);
        let (x, _x) = x.device_ptr(&self.stream);
        let (out, _out) = out.device_ptr_mut(&self.stream);
        // SAFETY: the sizes are those of the matrices, which live on the device; the factors are read at once.
        unsafe {
            cublasSgemm_v2(
                handle,
                operation,
                CUBLAS_OP_N,
                outputs,
                n,
                inputs,
                &raw const ONE,
                w as *const f32,
                leading,
                x as *const f32,
                inputs,
                &raw const ZERO,
                out as *mut f32,
                outputs,
            )
        }
        .result()
        .map_err(|error| failed("cuBLAS could not multiply", error))
    }

    /// Adds the lower triangle of `xᵀx`, of `rows` rows from `first` on.
    pub(super) fn gram(
        &self,
        x: &CudaSlice<f32>,
        (first, rows): (usize, usize),
        width: usize,
        gram: &mut CudaSlice<f32>,
    ) -> Result<(), Error> {
        let (n, columns) = (whole(rows)?, whole(width)?);
        let guard = self.lock()?;
        let handle: cublasHandle_t = *guard.handle();
        let (x, _x) = x.device_ptr(&self.stream);
        let (gram, _gram) = gram.device_ptr_mut(&self.stream);
        let x = (x as *const f32).wrapping_add(first * width);
        // SAFETY: as above. The upper triangle by columns is the lower one by rows.
        unsafe {
            cublasSsyrk_v2(
                handle,
                CUBLAS_FILL_MODE_UPPER,
                CUBLAS_OP_N,
                columns,
                n,
                &raw const ONE,
                x,
                columns,
                &raw const ONE,
                gram as *mut f32,
                columns,
            )
        }
        .result()
        .map_err(|error| failed("cuBLAS could not multiply", error))
    }

    /// Adds `aᵀb`, of `rows` rows from `first` on.
    pub(super) fn cross(
        &self,
        (a, b): (&CudaSlice<f32>, &CudaSlice<f32>),
        (first, rows): (usize, usize),
        (height, width): (usize, usize),
        sum: &mut CudaSlice<f32>,
    ) -> Result<(), Error> {
        let (n, m, columns) = (whole(rows)?, whole(height)?, whole(width)?);
        let guard = self.lock()?;
        let handle: cublasHandle_t = *guard.handle();
        let (a, _a) = a.device_ptr(&self.stream);
        let (b, _b) = b.device_ptr(&self.stream);
        let (sum, _sum) = sum.device_ptr_mut(&self.stream);
        let (a, b) = ((a as *const f32).wrapping_add(first * height), (b as *const f32).wrapping_add(first * width));
        // SAFETY: as above. By columns it is `bᵀa`, of `b` and `a` that are each other's transposes there.
        unsafe {
            cublasSgemm_v2(
                handle,
                CUBLAS_OP_N,
                CUBLAS_OP_T,
                columns,
                m,
                n,
                &raw const ONE,
                b,
                columns,
                a,
                m,
                &raw const ONE,
                sum as *mut f32,
                columns,
            )
        }
        .result()
        .map_err(|error| failed("cuBLAS could not multiply", error))
    }

    /// A Gram matrix in `f64`.
    pub(super) fn gram_f64(
        &self,
        x: &CudaSlice<f64>,
        rows: usize,
        width: usize,
        gram: &mut CudaSlice<f64>,
    ) -> Result<(), Error> {
        let (n, columns) = (whole(rows)?, whole(width)?);
        let guard = self.lock()?;
        let handle: cublasHandle_t = *guard.handle();
        let (x, _x) = x.device_ptr(&self.stream);
        let (gram, _gram) = gram.device_ptr_mut(&self.stream);
        // SAFETY: as above.
        unsafe {
            cublasDsyrk_v2(
                handle,
                CUBLAS_FILL_MODE_UPPER,
                CUBLAS_OP_N,
                columns,
                n,
                &raw const ONE_F64,
                x as *const f64,
                columns,
                &raw const ONE_F64,
                gram as *mut f64,
                columns,
            )
        }
        .result()
        .map_err(|error| failed("cuBLAS could not multiply", error))
    }
}

static ONE: f32 = 1.0;
static ZERO: f32 = 0.0;
static ONE_F64: f64 = 1.0;

fn whole(size: usize) -> Result<i32, Error> {
    i32::try_from(size).map_err(|_| Error::Device(format!("{size} is more than cuBLAS can count")))
}

fn failed(what: &str, error: CublasError) -> Error {
    Error::Device(format!("{what}: {:?}", error.0))
}
