//! Rows of a tensor of the file: their bytes, checked, and what they are widened to.

use qhost_plugin_api::{
    documents::StoredTensor,
    sdk::{Failure, Result},
};

use crate::arrange::{Origin, in_memory};
use qhost_ggml::GgmlType;

/// Rows of a tensor of the file that one tensor of the model gave.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) file: usize,
    /// The first byte of the first of these rows.
    pub(super) start: u64,
    pub(super) rows: u64,
    pub(super) row_elements: u64,
    pub(super) row_bytes: u64,
    pub(super) ggml_type: GgmlType,
    pub(super) origin: Origin,
}

impl Place {
    /// All bytes of its rows.
    pub(super) fn bytes<'a>(&self, files: &[&'a [u8]]) -> Result<&'a [u8]> {
        let start = usize::try_from(self.start).ok();
        let end = self.rows.checked_mul(self.row_bytes).and_then(|bytes| self.start.checked_add(bytes));
        let range = start.zip(end.and_then(|end| usize::try_from(end).ok()));
        let file = files.get(self.file).copied().unwrap_or_default();
        range.and_then(|(start, end)| file.get(start..end)).ok_or_else(|| self.lost())
    }

    /// The bytes of its row of this index, whose scales are numbers.
    pub(super) fn row<'a>(&self, bytes: &'a [u8], index: u64) -> Result<&'a [u8]> {
        let row_bytes = in_memory(self.row_bytes)?;
        let start = in_memory(index)?.checked_mul(row_bytes);
        let end = start.and_then(|start| start.checked_add(row_bytes));
        let row = start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| self.lost())?;
        match self.ggml_type.first_invalid_block(row) {
            None => Ok(row),
            Some(block) => {
                let at = block as u64 * self.ggml_type.block_elements;
                Err(self.corrupt(format!("a scale or value of row {index} is infinite or NaN, at weight {at}")))
            }
        }
    }

    /// Widens its row of this index.
    pub(super) fn widen(&self, bytes: &[u8], index: u64, out: &mut [f32]) -> Result<()> {
        let row = self.row(bytes, index)?;
        if out.len() as u64 != self.row_elements {
            return Err(Failure::internal("a row has another length than its place").about(&*self.name));
        }
        self.ggml_type.dequantize(row, out);
        match out.iter().position(|weight| !weight.is_finite()) {
            None => Ok(()),
            Some(at) => Err(self.corrupt(format!("weight {at} of row {index} is too large for 32 bits"))),
        }
    }

    pub(super) fn corrupt(&self, what: String) -> Failure {
        Failure::corrupt(what).about(&*self.name).hint("fetch the file again, or make it anew")
    }

    fn lost(&self) -> Failure {
        Failure::corrupt("its data are not in the file").about(&*self.name)
    }
}

/// The type of a tensor, and the bytes of its rows.
pub(super) fn widened(tensor: &StoredTensor, row_elements: u64) -> Result<(GgmlType, u64)> {
    let ggml_type = GgmlType::named(&tensor.encoding).filter(|known| known.holds_weights()).ok_or_else(|| {
        Failure::unsupported(format!("it is of the type {}, which holds no weights", tensor.encoding))
            .about(&*tensor.name)
            .hint("llama.cpp does not read it as weights either: where does the file come from?")
    })?;
    let row_bytes = ggml_type.row_bytes(row_elements).filter(|row_bytes| {
        let rows = tensor.elements().checked_div(row_elements).unwrap_or(0);
        rows.checked_mul(*row_bytes) == Some(tensor.bytes)
    });
    let row_bytes = row_bytes.ok_or_else(|| {
        Failure::corrupt(format!("its rows of {row_elements} are no whole blocks of {}", tensor.encoding))
            .about(&*tensor.name)
    })?;
    Ok((ggml_type, row_bytes))
}
