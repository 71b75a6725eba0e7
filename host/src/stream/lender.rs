//! Lending rows of source tensors straight from the mapped files, and dropping their pages after.
//!
//! It knows tensors as numbers: a file, an offset, rows of so many bytes.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::MappedFile;

/// Linux maps this much around every page that is touched, so a loan leaves pages behind on both sides,
/// some of them after their own loan was given back. A neighbour that is still in use gets them again.
const AROUND: u64 = 64 << 10;

/// Where a tensor's rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Number of rows.
    pub rows: u64,
    /// Bytes in a row.
    pub row_bytes: u64,
}

/// Lends rows; shared by all threads of a run.
#[derive(Debug)]
pub struct Lender {
    files: Vec<Arc<MappedFile>>,
    tensors: Vec<Placement>,
    next: AtomicU64,
    out: Mutex<HashMap<u64, (usize, Range<u64>)>>,
}

/// Rows on loan. The bytes stay where they are for the life of the [`Lender`].
#[derive(Debug)]
pub struct Loan<'a> {
    /// Names the loan.
    pub id: u64,
    /// The rows' bytes.
    pub bytes: &'a [u8],
}

/// Rows that are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rows {} to {} of tensor {tensor} are not in the source", rows.start, rows.end)]
pub struct NoSuchRows {
    /// The tensor asked for.
    pub tensor: u32,
    /// The rows asked for.
    pub rows: Range<u64>,
}

impl Lender {
    /// A lender of these tensors.
    #[must_use]
    pub fn new(files: Vec<Arc<MappedFile>>, tensors: Vec<Placement>) -> Self {
        Self { files, tensors, next: AtomicU64::new(1), out: Mutex::default() }
    }

    /// Lends rows of a tensor.
    ///
    /// # Errors
    /// Fails when there is no such tensor or row.
    pub fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Loan<'_>, NoSuchRows> {
        let refused = || NoSuchRows { tensor, rows: first_row..first_row.saturating_add(rows) };
        let placement = self.tensors.get(tensor as usize).ok_or_else(refused)?;
        let end_row = first_row.checked_add(rows).filter(|&end| end <= placement.rows).ok_or_else(refused)?;
        let file = self.files.get(placement.file).ok_or_else(refused)?;
        let range =
            placement.offset + first_row * placement.row_bytes..placement.offset + end_row * placement.row_bytes;
        let bytes = usize::try_from(range.start)
            .and_then(|start| Ok((start, usize::try_from(range.end)?)))
            .ok()
            .and_then(|(start, end)| file.bytes().get(start..end))
            .ok_or_else(refused)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.out().insert(id, (placement.file, range));
        Ok(Loan { id, bytes })
    }

    /// Takes rows back and lets their pages go; an unknown loan is ignored.
    pub fn take_back(&self, id: u64) {
        let loan = self.out().remove(&id);
        if let Some((file, range)) = loan {
            self.files[file].release(range.start.saturating_sub(AROUND)..range.end + AROUND);
        }
    }

    /// Asks the system to read a tensor into its cache.
    pub fn prefetch(&self, tensor: u32) {
        if let Some(placement) = self.tensors.get(tensor as usize) {
            let end = placement.offset + placement.rows * placement.row_bytes;
            self.files[placement.file].prefetch(placement.offset..end);
        }
    }

    fn out(&self) -> MutexGuard<'_, HashMap<u64, (usize, Range<u64>)>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lender() -> (tempfile::TempDir, Lender) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, (0..100).collect::<Vec<u8>>()).unwrap();
        let file = Arc::new(MappedFile::open(&path).unwrap());
        let tensor = Placement { file: 0, offset: 10, rows: 4, row_bytes: 5 };
        (folder, Lender::new(vec![file], vec![tensor, Placement { offset: 90, rows: 3, ..tensor }]))
    }

    #[test]
    fn rows_are_lent_in_place_and_come_back_after_their_pages_went() {
        let (_folder, lender) = lender();
        for _ in 0..2 {
            let loan = lender.lend(0, 1, 2).unwrap();
            assert_eq!(loan.bytes, (15..25).collect::<Vec<u8>>());
            lender.take_back(loan.id);
            lender.take_back(loan.id);
        }
        assert!(lender.out().is_empty());
    }

    #[test]
    fn rows_outside_the_tensor_or_the_file_are_refused() {
        let (_folder, lender) = lender();
        for (tensor, first, rows) in [(0, 3, 2), (0, u64::MAX, 2), (2, 0, 1), (1, 0, 3)] {
            assert!(lender.lend(tensor, first, rows).is_err(), "{tensor} {first} {rows}");
        }
        assert_eq!(lender.lend(1, 0, 2).unwrap().bytes.len(), 10);
    }
}
