//! Tensors that are stored as floats, between those that are packed.

use qhost_folder::StoredAt;
use qhost_plugin_api::sdk::{DType, Failure, Result, widen};

/// A tensor that is stored as floats.
pub(crate) struct Plain {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) element_bytes: usize,
    pub(crate) row_elements: usize,
    pub(crate) rows: u64,
    pub(crate) stored: StoredAt,
}

impl Plain {
    /// A tensor that is stored as floats.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` when it is not.
    pub(crate) fn of(stored: &StoredAt) -> Result<Self> {
        let (dtype, element_bytes) = match &*stored.dtype {
            "F32" => (DType::F32, 4),
            "F16" => (DType::F16, 2),
            "BF16" => (DType::BF16, 2),
            other => {
                return Err(Failure::unsupported(format!("it is stored as {other}"))
                    .about(&*stored.name)
                    .hint("tensors that are not packed are read as F32, F16 and BF16"));
            }
        };
        let (last, outer) = stored.shape.split_last().map_or((1, &[][..]), |(last, outer)| (*last, outer));
        let row_elements = usize::try_from(last).map_err(|_| Failure::internal("a row is longer than memory"))?;
        let rows = outer.iter().fold(1, |rows: u64, dim| rows.saturating_mul(*dim));
        Ok(Self { name: stored.name.clone(), dtype, element_bytes, row_elements, rows, stored: stored.clone() })
    }

    /// Fills `out` with rows from the first on, out of all files.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when they are not there.
    pub(crate) fn fill(&self, files: &[&[u8]], first_row: u64, out: &mut [f32]) -> Result<()> {
        let lost = || Failure::corrupt("its data are not in the files").about(&*self.name);
        let row_bytes = (self.row_elements * self.element_bytes) as u64;
        let start = first_row.checked_mul(row_bytes).and_then(|within| within.checked_add(self.stored.offset));
        let start = start.and_then(|start| usize::try_from(start).ok()).ok_or_else(lost)?;
        let end = start.checked_add(out.len() * self.element_bytes).ok_or_else(lost)?;
        let bytes = files.get(self.stored.file).and_then(|file| file.get(start..end)).ok_or_else(lost)?;
        widen(self.dtype, bytes, out)
    }
}
