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

use super::{
    Encoding, MappedFile,
    encoding::{MX_BLOCK, widen_e4m3, widen_mxfp4},
};

/// Pages of so many returned bytes may stay until they are all let go together.
const KEPT: u64 = 8 << 20;

/// Linux may map this much around a page that is touched (a large folio), so a loan leaves pages on both
/// sides, some of them after their own loan was returned. That is why pages are not let go loan by loan, and
/// why what was skipped between two loans counts.
const AROUND: u64 = 2 << 20;

/// A loan is about this long, with what is mapped around it.
const LOAN: u64 = 256 << 10;

/// The most bytes of mapped files that stay, about, when so many threads have rows on loan.
#[must_use]
pub fn most_mapped(threads: u32) -> u64 {
    KEPT + AROUND + LOAN.saturating_mul(u64::from(threads))
}

/// Where a tensor's rows lie, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Number of rows.
    pub rows: u64,
    /// Bytes in a row.
    pub row_bytes: u64,
    /// How they are stored.
    pub encoding: Encoding,
}

/// Lends rows; shared by all threads of a run.
#[derive(Debug)]
pub struct Lender {
    files: Vec<Arc<MappedFile>>,
    tensors: Vec<Placement>,
    next: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    out: HashMap<u64, Out>,
    /// For each file, from the first to the last byte that was returned and whose pages are still there.
    returned: HashMap<usize, Range<u64>>,
    /// Bytes whose pages may be there, of those loans and beside them.
    kept: u64,
}

/// What is on loan.
#[derive(Debug)]
struct Out {
    file: usize,
    range: Range<u64>,
    /// Keeps rows in memory that were widened, until they are given back.
    _widened: Option<Arc<Vec<u8>>>,
}

/// Rows on loan. The bytes stay where they are until the loan is given back.
#[derive(Debug)]
pub struct Loan<'a> {
    /// Names the loan.
    pub id: u64,
    bytes: Bytes<'a>,
}

#[derive(Debug)]
enum Bytes<'a> {
    Mapped(&'a [u8]),
    Widened(Arc<Vec<u8>>),
}

impl Loan<'_> {
    /// The rows' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Widened(bytes) => bytes,
        }
    }
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
        Self { files, tensors, next: AtomicU64::new(1), books: Mutex::default() }
    }

    /// Lends rows of a tensor.
    ///
    /// # Errors
    /// Fails when there is no such tensor or row.
    pub fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Loan<'_>, NoSuchRows> {
        let refused = || NoSuchRows { tensor, rows: first_row..first_row.saturating_add(rows) };
        let placement = self.tensors.get(tensor as usize).ok_or_else(refused)?;
        let end_row = first_row.checked_add(rows).filter(|&end| end <= placement.rows).ok_or_else(refused)?;
        let range =
            placement.offset + first_row * placement.row_bytes..placement.offset + end_row * placement.row_bytes;
        let stored = self.bytes(placement.file, &range).ok_or_else(refused)?;
        let widened = match &placement.encoding {
            Encoding::Plain => None,
            encoding => {
                let widened = self.widened(placement, encoding, &(first_row..end_row), stored);
                Some(Arc::new(widened.ok_or_else(refused)?))
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.books().out.insert(id, Out { file: placement.file, range, _widened: widened.clone() });
        Ok(Loan { id, bytes: widened.map_or(Bytes::Mapped(stored), Bytes::Widened) })
    }

    fn bytes(&self, file: usize, range: &Range<u64>) -> Option<&[u8]> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        self.files.get(file)?.bytes().get(start..end)
    }

    /// Rows as `f32`; `None` if what they are widened with is not there.
    fn widened(&self, placement: &Placement, encoding: &Encoding, rows: &Range<u64>, stored: &[u8]) -> Option<Vec<u8>> {
        match encoding {
            Encoding::Plain => Some(stored.to_vec()),
            Encoding::ScaledE4M3 { scales, block_rows, block_columns } => {
                let scale = |block: u64| {
                    let start = scales.offset + block * scales.kind.bytes();
                    self.bytes(scales.file, &(start..start + scales.kind.bytes()))
                };
                widen_e4m3(stored, rows, placement.row_bytes, (*block_rows, *block_columns), scales, scale)
            }
            Encoding::Mxfp4 { file, offset } => {
                let blocks = placement.row_bytes / (MX_BLOCK / 2);
                let scales = self.bytes(*file, &(offset + rows.start * blocks..offset + rows.end * blocks))?;
                Some(widen_mxfp4(stored, scales))
            }
        }
    }

    /// Takes rows back; an unknown loan is ignored.
    ///
    /// Their pages go when enough have come together. Rows in between that are still on loan lose theirs,
    /// too, and get them again from the system's cache when they are touched.
    pub fn take_back(&self, id: u64) {
        for (file, range) in self.return_loan(id) {
            self.files[file].release(range.start.saturating_sub(AROUND)..range.end.saturating_add(AROUND));
        }
    }

    /// Strikes a loan out; gives the ranges to let go, if it is time.
    fn return_loan(&self, id: u64) -> HashMap<usize, Range<u64>> {
        let mut books = self.books();
        let Some(Out { file, range, .. }) = books.out.remove(&id) else { return HashMap::new() };
        let span = books.returned.entry(file).or_insert_with(|| range.clone());
        let skipped = range.start.saturating_sub(span.end).max(span.start.saturating_sub(range.end));
        *span = span.start.min(range.start)..span.end.max(range.end);
        books.kept += range.end - range.start + skipped.min(2 * AROUND);
        if books.kept < KEPT {
            return HashMap::new();
        }
        books.kept = 0;
        std::mem::take(&mut books.returned)
    }

    /// Asks the system to read a tensor into its cache.
    pub fn prefetch(&self, tensor: u32) {
        if let Some(placement) = self.tensors.get(tensor as usize) {
            let end = placement.offset + placement.rows * placement.row_bytes;
            self.files[placement.file].prefetch(placement.offset..end);
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
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
        let tensor = Placement { file: 0, offset: 10, rows: 4, row_bytes: 5, encoding: Encoding::Plain };
        (folder, Lender::new(vec![file], vec![tensor.clone(), Placement { offset: 90, rows: 3, ..tensor }]))
    }

    #[test]
    fn rows_are_lent_in_place_and_come_back_after_their_pages_went() {
        let (_folder, lender) = lender();
        for _ in 0..2 {
            let loan = lender.lend(0, 1, 2).unwrap();
            assert_eq!(loan.bytes(), (15..25).collect::<Vec<u8>>());
            lender.take_back(loan.id);
            lender.take_back(loan.id);
        }
        assert!(lender.books().out.is_empty());
    }

    #[test]
    fn pages_go_when_enough_have_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::File::create(&path).unwrap().set_len(4 * KEPT).unwrap();
        let file = Arc::new(MappedFile::open(&path).unwrap());
        let tensor = Placement { file: 0, offset: 0, rows: 4, row_bytes: KEPT, encoding: Encoding::Plain };
        let lender =
            Lender::new(vec![file], vec![tensor.clone(), Placement { rows: 64, row_bytes: KEPT / 16, ..tensor }]);
        let row = |tensor, row| lender.lend(tensor, row, 1).unwrap().id;
        let (small, later) = (row(1, 63), row(1, 0));
        assert_eq!(lender.return_loan(small), HashMap::new());
        assert_eq!(lender.return_loan(small), HashMap::new(), "twice is once");
        let whole = row(0, 1);
        assert_eq!(lender.return_loan(whole), HashMap::from([(0, KEPT..4 * KEPT)]));
        assert_eq!(lender.return_loan(later), HashMap::new(), "counted from the start again");
    }

    /// A sample of a tensor's rows maps what lies between them, too.
    #[test]
    fn what_is_skipped_between_loans_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::File::create(&path).unwrap().set_len(8 * KEPT).unwrap();
        let row_bytes = 64 << 10;
        let tensor = Placement { file: 0, offset: 0, rows: 8 * KEPT / row_bytes, row_bytes, encoding: Encoding::Plain };
        let lender = Lender::new(vec![Arc::new(MappedFile::open(&path).unwrap())], vec![tensor]);
        let let_go = |step: u64| {
            let row = |row| lender.return_loan(lender.lend(0, row, 1).unwrap().id);
            (0..8 * KEPT / row_bytes / step).position(|sample| !row(sample * step).is_empty())
        };
        assert_eq!(let_go(1), Some(127), "8 MiB of rows of 64 KiB");
        // Every sixteenth is one in a megabyte.
        assert_eq!(let_go(16), Some(8));
    }

    #[test]
    fn rows_outside_the_tensor_or_the_file_are_refused() {
        let (_folder, lender) = lender();
        for (tensor, first, rows) in [(0, 3, 2), (0, u64::MAX, 2), (2, 0, 1), (1, 0, 3)] {
            assert!(lender.lend(tensor, first, rows).is_err(), "{tensor} {first} {rows}");
        }
        assert_eq!(lender.lend(1, 0, 2).unwrap().bytes().len(), 10);
    }
}
