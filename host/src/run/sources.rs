//! The rows of a model's tensors, lent straight from the mapped checkpoint or decoded by the plugin of quantised files: to
//! a plugin, or to the forward pass.

use std::{ops::Deref, sync::Arc};

use qhost_compute::Dtype;
use qhost_plugin_api::{
    abi::{DType, Failure, FailureKind},
    documents::Model,
};

use super::decoded::Decoded;
use crate::{
    calibrate::{Lent, Weights},
    model::{StoredAs, Widening},
    plugin::Borrowed,
    quantised::QuantisedSource,
    source::Checkpoint,
    stream::{Encoding, Lender, Loan, Placement, ScaleKind, Scales},
};

/// Lends the rows of a model's tensors.
#[derive(Debug)]
pub struct Sources {
    model: Arc<Model>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Mapped(Lender),
    Decoded(Decoded),
}

impl Sources {
    /// The tensors of a model; `stored` tells for each of them where it is in the checkpoint.
    #[must_use]
    pub fn new(checkpoint: &Checkpoint, model: Arc<Model>, stored: &[StoredAs]) -> Self {
        let files = checkpoint.shards.iter().map(|shard| Arc::clone(&shard.mapping)).collect();
        let tensors = model.tensors.iter().zip(stored).map(|(tensor, stored_as)| {
            let stored = &checkpoint.tensors[stored_as.tensor];
            let rows = tensor.rows();
            Placement {
                file: stored.shard,
                offset: stored.offset,
                rows,
                row_bytes: stored.bytes.checked_div(rows).unwrap_or(0),
                encoding: encoding(checkpoint, stored_as.widening),
            }
        });
        let held = Held::Mapped(Lender::new(files, tensors.collect()));
        Self { model, held }
    }

    /// The tensors of quantised files.
    #[must_use]
    pub fn of_files(files: Arc<QuantisedSource>) -> Self {
        Self { model: Arc::clone(&files.model), held: Held::Decoded(Decoded::new(files)) }
    }

    /// The name of a tensor.
    #[must_use]
    pub fn name_of(&self, tensor: u32) -> Option<&String> {
        self.model.tensors.get(tensor as usize).map(|tensor| &tensor.name)
    }

    /// Lends rows of a tensor.
    ///
    /// # Errors
    /// Fails with kind `PLUGIN` when there is no such tensor or row, and with whatever keeps them from being decoded.
    pub fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Borrowed, Failure> {
        let Some(source) = self.model.tensors.get(tensor as usize) else {
            return Err(broken(&format!("tensor {tensor} is not in the source")));
        };
        let borrowed = |id: u64, bytes: &[u8]| Borrowed {
            id,
            dtype: dtype_number(&source.dtype),
            rows,
            row_elements: source.row_elements(),
            data: bytes.as_ptr(),
            bytes: bytes.len() as u64,
        };
        match &self.held {
            Held::Mapped(lender) => {
                let loan = lender.lend(tensor, first_row, rows).map_err(|error| broken(&error.to_string()))?;
                Ok(borrowed(loan.id, loan.bytes()))
            }
            Held::Decoded(decoded) => {
                let (id, bytes) = decoded.lend(tensor, first_row, rows)?;
                Ok(borrowed(id, &bytes))
            }
        }
    }

    /// Takes rows back.
    pub fn take_back(&self, id: u64) {
        match &self.held {
            Held::Mapped(lender) => lender.take_back(id),
            Held::Decoded(decoded) => decoded.take_back(id),
        }
    }

    /// Asks the system to read a tensor into its cache, where it is known in which bytes it lies.
    pub fn prefetch(&self, tensor: u32) {
        if let Held::Mapped(lender) = &self.held {
            lender.prefetch(tensor);
        }
    }
}

impl Weights for Sources {
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure> {
        let dtype = match self.model.tensors.get(tensor as usize).map(|source| source.dtype.as_str()) {
            Some("F16") => Dtype::F16,
            Some("BF16") => Dtype::BF16,
            _ => Dtype::F32,
        };
        match &self.held {
            Held::Mapped(lender) => {
                let loan = lender.lend(tensor, first_row, rows);
                let loan = loan.map_err(|error| Failure::internal(error.to_string()))?;
                Ok(Lent::new(dtype, Returned { lender, loan }))
            }
            Held::Decoded(decoded) => Ok(Lent::new(dtype, decoded.rows(tensor, first_row, rows)?)),
        }
    }

    fn expect(&self, tensor: u32) {
        self.prefetch(tensor);
    }
}

/// A loan that is given back when it is dropped.
struct Returned<'a> {
    lender: &'a Lender,
    loan: Loan<'a>,
}

impl Deref for Returned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.loan.bytes()
    }
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.lender.take_back(self.loan.id);
    }
}

/// A breach of the contract by the plugin.
pub(super) fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::PLUGIN, format!("the plugin broke its contract: {what}"))
}

/// The border's number for a dtype that [`crate::model`] lets through.
fn dtype_number(name: &str) -> DType {
    match name {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        _ => DType(0),
    }
}

/// How a tensor's rows become floats when they are lent.
fn encoding(checkpoint: &Checkpoint, widening: Widening) -> Encoding {
    let scales = |index: usize| &checkpoint.tensors[index];
    match widening {
        Widening::None => Encoding::Plain,
        Widening::ScaledE4M3 { scales: index, block_rows, block_columns } => {
            let stored = scales(index);
            let kind = if stored.dtype == "BF16" { ScaleKind::BF16 } else { ScaleKind::F32 };
            let columns = stored.shape.last().copied().unwrap_or(1);
            let scales = Scales { file: stored.shard, offset: stored.offset, columns, kind };
            Encoding::ScaledE4M3 { scales, block_rows, block_columns }
        }
        Widening::Mxfp4 { scales: index } => {
            Encoding::Mxfp4 { file: scales(index).shard, offset: scales(index).offset }
        }
    }
}
