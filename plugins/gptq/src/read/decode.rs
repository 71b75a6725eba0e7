//! The weights of the model out of a folder, as the host asks for them.
//!
//! The tensors of the model have the folder's own names; a linear's weight stands for its packed tensors.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use qhost_folder::StoredAt;
use qhost_plugin_api::{
    documents::{Findings, Model, Output, Plan, Reading, SourceTensor, UnitOrder},
    sdk::{
        DECODE, DType, Failure, FilesHandle, FormatJob, FormatService, Result, RowDecoder, UnitHandle, decode_service,
        widen,
    },
};

use super::{linear::Linear, reader::tensors_of};

/// A folder as the source of weights.
pub(crate) struct Decoding {
    plan: Plan,
    decoder: Arc<Decoder>,
}

/// For every tensor of the model, where it is.
struct Decoder {
    tensors: Vec<Held>,
}

/// A tensor of the model.
enum Held {
    Packed(Linear),
    Plain(Plain),
}

/// A tensor that is stored as floats.
pub(crate) struct Plain {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) element_bytes: usize,
    pub(crate) row_elements: usize,
    pub(crate) rows: u64,
    pub(crate) stored: StoredAt,
}

impl Decoding {
    /// Finds every tensor of the model in the folder.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when one is not there or has another shape, and with `UNSUPPORTED` when one is stored
    /// otherwise than as codes or floats.
    pub(crate) fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let (linears, plain) = tensors_of(existing)?;
        let linears: BTreeMap<String, Linear> =
            linears.into_iter().map(|linear| (format!("{}.weight", linear.name), linear)).collect();
        let plain: BTreeMap<String, StoredAt> = plain.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let held = |tensor: &SourceTensor| {
            let shape = tensor.shape.as_slice();
            if let Some(linear) = linears.get(&tensor.name) {
                let own = [linear.outputs as u64, linear.inputs as u64];
                return if own == shape { Ok(Held::Packed(linear.clone())) } else { Err(misshapen(tensor, &own)) };
            }
            let found = plain.get(&tensor.name);
            let found = found.ok_or_else(|| Failure::corrupt("the folder does not hold it").about(&*tensor.name))?;
            if found.shape != shape {
                return Err(misshapen(tensor, &found.shape));
            }
            Plain::of(found).map(Held::Plain)
        };
        let tensors = model.tensors.iter().map(held).collect::<Result<_>>()?;
        let mut plan = Plan::new(&*existing.format, "source", Output::folder("-source"));
        plan.order = UnitOrder::Independent;
        Ok(Self { plan, decoder: Arc::new(Decoder { tensors }) })
    }
}

fn misshapen(tensor: &SourceTensor, stored: &[u64]) -> Failure {
    Failure::corrupt(format!("it has the shape {stored:?}, and the config implies {:?}", tensor.shape))
        .about(&*tensor.name)
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

    fn fill(&self, files: &[&[u8]], first_row: u64, out: &mut [f32]) -> Result<()> {
        let lost = || Failure::corrupt("its data are not in the files").about(&*self.name);
        let row_bytes = (self.row_elements * self.element_bytes) as u64;
        let start = first_row.checked_mul(row_bytes).and_then(|within| within.checked_add(self.stored.offset));
        let start = start.and_then(|start| usize::try_from(start).ok()).ok_or_else(lost)?;
        let end = start.checked_add(out.len() * self.element_bytes).ok_or_else(lost)?;
        let bytes = files.get(self.stored.file).and_then(|file| file.get(start..end)).ok_or_else(lost)?;
        widen(self.dtype, bytes, out)
    }
}

impl RowDecoder for Decoder {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let held = self.tensors.get(tensor as usize);
        let held = held.ok_or_else(|| Failure::internal(format!("there is no tensor {tensor}")))?;
        match held {
            Held::Plain(plain) => plain.fill(files, first_row, out),
            Held::Packed(linear) => {
                let first = usize::try_from(first_row).unwrap_or(usize::MAX);
                let end = first.saturating_add(out.len() / linear.inputs);
                linear.rows(&linear.packed(files)?, &(first..end), out)
            }
        }
    }
}

impl FormatJob for Decoding {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        Err(Failure::internal(format!("segment {segment} is not constant")))
    }

    fn run_unit(&self, unit: u32, _: &UnitHandle) -> Result<()> {
        Err(Failure::internal(format!("unit {unit} is to make nothing")))
    }

    fn check(&self, _: &FilesHandle) -> Result<Findings> {
        Ok(Findings::new(Vec::new()))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        (name == DECODE).then(|| decode_service(self.decoder.clone()))
    }
}
