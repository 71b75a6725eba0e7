//! The rows of a model's tensors, lent straight from the mapped checkpoint: to a plugin, or to the forward pass.

use std::{ops::Deref, sync::Arc};

use qhost_compute::Dtype;
use qhost_plugin_api::{
    abi::{DType, Failure, FailureKind},
    documents::Model,
};

use crate::{
    calibrate::{Lent, Weights},
    model::{StoredAs, Widening},
    plugin::Borrowed,
    source::Checkpoint,
    stream::{Encoding, Lender, Loan, Placement, ScaleKind, Scales},
};

/// Lends the rows of a model's tensors.
#[derive(Debug)]
pub struct Sources {
    model: Arc<Model>,
    lender: Lender,
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
        let lender = Lender::new(files, tensors.collect());
        Self { model, lender }
    }

    /// Lends rows of a tensor.
    ///
    /// # Errors
    /// Fails with kind `PLUGIN` when there is no such tensor or row.
    pub fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Borrowed, Failure> {
        let loan = self.lender.lend(tensor, first_row, rows).map_err(|error| broken(&error.to_string()))?;
        let source = &self.model.tensors[tensor as usize];
        Ok(Borrowed {
            id: loan.id,
            dtype: dtype_number(&source.dtype),
            rows,
            row_elements: source.row_elements(),
            data: loan.bytes().as_ptr(),
            bytes: loan.bytes().len() as u64,
        })
    }

    /// Takes rows back.
    pub fn take_back(&self, id: u64) {
        self.lender.take_back(id);
    }

    /// Asks the system to read a tensor into its cache.
    pub fn prefetch(&self, tensor: u32) {
        self.lender.prefetch(tensor);
    }
}

impl Weights for Sources {
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure> {
        let loan = self.lender.lend(tensor, first_row, rows).map_err(|error| Failure::internal(error.to_string()))?;
        let dtype = match &*self.model.tensors[tensor as usize].dtype {
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            _ => Dtype::F32,
        };
        Ok(Lent::new(dtype, Returned { lender: &self.lender, loan }))
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
