//! Rows of quantised files, which a plugin decodes when they are lent.
//!
//! What is lent is kept until it is given back; pages of the files go when enough has been read.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use half::{bf16, f16};
use qhost_plugin_api::abi::{Failure, FailureKind};
use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::ParallelSliceMut,
};

use super::unit::as_failure;
use crate::quantised::QuantisedSource;

/// Weights that are decoded at a time by a thread.
const PIECE: usize = 1 << 18;

/// After so many weights the pages that were read for them go.
const KEPT: u64 = 32 << 20;

/// Decodes rows of quantised files.
pub(super) struct Decoded {
    files: Arc<QuantisedSource>,
    next: AtomicU64,
    out: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
    read: AtomicU64,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded").field("path", &self.files.path).finish_non_exhaustive()
    }
}

impl Decoded {
    pub(super) fn new(files: Arc<QuantisedSource>) -> Self {
        Self { files, next: AtomicU64::new(1), out: Mutex::default(), read: AtomicU64::new(0) }
    }

    /// Rows that are kept until they are taken back.
    pub(super) fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<(u64, Arc<Vec<u8>>), Failure> {
        let bytes = Arc::new(self.piece(tensor, first_row, rows)?);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.books().insert(id, Arc::clone(&bytes));
        Ok((id, bytes))
    }

    /// Takes rows back; an unknown loan is ignored.
    pub(super) fn take_back(&self, id: u64) {
        self.books().remove(&id);
    }

    /// Rows, decoded on all threads.
    pub(super) fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Vec<u8>, Failure> {
        let absent = || Failure::internal(format!("there is no tensor {tensor}"));
        let source = self.files.model.tensors.get(tensor as usize).ok_or_else(absent)?;
        let in_memory = |count: u64| usize::try_from(count).map_err(|_| too_long());
        let width = in_memory(source.row_elements())?.max(1);
        let row = width.checked_mul(element(&source.dtype)).ok_or_else(too_long)?;
        let mut bytes = vec![0; in_memory(rows)?.checked_mul(row).ok_or_else(too_long)?];
        let rows_of_piece = (PIECE / width).max(1);
        bytes.par_chunks_mut(rows_of_piece * row).enumerate().try_for_each(|(piece, place)| {
            let (first, rows) = (first_row + (piece * rows_of_piece) as u64, (place.len() / row) as u64);
            let decoded = self.piece(tensor, first, rows)?;
            if decoded.len() != place.len() {
                return Err(too_long());
            }
            place.copy_from_slice(&decoded);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Rows as little-endian floats of the model's type for the tensor.
    fn piece(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Vec<u8>, Failure> {
        let numbers = self.files.rows(tensor, first_row, rows).map_err(|error| as_failure(&error))?;
        if self.read.fetch_add(numbers.len() as u64, Ordering::Relaxed) + numbers.len() as u64 >= KEPT {
            self.read.store(0, Ordering::Relaxed);
            self.files.let_go();
        }
        let dtype = self.files.model.tensors.get(tensor as usize).map(|source| source.dtype.as_str());
        // The narrow types are told only where they hold every number.
        Ok(match dtype {
            Some("F16") => in_bytes(&numbers, |number| f16::from_f32(number).to_le_bytes()),
            Some("BF16") => in_bytes(&numbers, |number| bf16::from_f32(number).to_le_bytes()),
            _ => in_bytes(&numbers, f32::to_le_bytes),
        })
    }

    fn books(&self) -> MutexGuard<'_, HashMap<u64, Arc<Vec<u8>>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers one behind the other, each as so many bytes.
fn in_bytes<const BYTES: usize>(numbers: &[f32], narrow: impl Fn(f32) -> [u8; BYTES]) -> Vec<u8> {
    let mut bytes = vec![0; numbers.len() * BYTES];
    for (place, number) in bytes.as_chunks_mut::<BYTES>().0.iter_mut().zip(numbers) {
        *place = narrow(*number);
    }
    bytes
}

/// Bytes of an element that is lent.
fn element(dtype: &str) -> usize {
    if matches!(dtype, "F16" | "BF16") { 2 } else { 4 }
}

fn too_long() -> Failure {
    Failure::new(FailureKind::RESOURCES, "a tensor is longer than memory")
}
