//! The weights of a checkpoint out of a GGUF file, whoever made it: what [`items`] says of the writing, read
//! backwards.
//!
//! It knows which tensors of the file a tensor of the checkpoint is in; the file's bytes come from the host.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use qhost_plugin_api::{
    documents::{Findings, Model, Output, Plan, Reading, RoleKind, StoredTensor, UnitOrder},
    sdk::{DECODE, Failure, FilesHandle, FormatJob, FormatService, Result, RowDecoder, UnitHandle, decode_service},
};

use crate::{
    arrange::{Origin, in_memory},
    families,
    ggml_type::GgmlType,
    items::{self, Content},
    write,
};

/// A file as the source of weights.
pub struct Decoding {
    plan: Plan,
    decoder: Arc<Decoder>,
}

/// For every tensor of the model, where it is.
struct Decoder {
    tensors: Vec<Held>,
}

/// A tensor of the model.
struct Held {
    name: String,
    columns: u64,
    /// The parts of it, each in a tensor of the file.
    places: Vec<Place>,
}

/// Rows of a tensor of the file that one tensor of the model gave.
struct Place {
    name: String,
    file: usize,
    /// The first byte of the first of these rows.
    start: u64,
    rows: u64,
    row_elements: u64,
    row_bytes: u64,
    ggml_type: GgmlType,
    origin: Origin,
}

impl Decoding {
    /// Finds every tensor of the model in the file.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when one is not there or has another shape, and with `UNSUPPORTED` when one is of a
    /// type that holds no weights.
    pub(crate) fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let family = families::family_of(model)?;
        let (items, _) = items::items(model, family)?;
        let stored: BTreeMap<&str, &StoredTensor> =
            existing.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let has_head = model.tensors.iter().any(|tensor| tensor.role.kind == RoleKind::Output);
        let mut tensors: Vec<Held> = model
            .tensors
            .iter()
            .map(|tensor| Held { name: tensor.name.clone(), columns: tensor.row_elements(), places: Vec::new() })
            .collect();
        for item in items {
            let Content::Weights { origin, .. } = item.content else { continue };
            // A head that llama.cpp asks for and the model does not have says nothing new.
            if item.name == "output.weight" && !has_head {
                continue;
            }
            let tensor = stored.get(item.name.as_str());
            let tensor = tensor.ok_or_else(|| Failure::corrupt("it is not in the file").about(&*item.name))?;
            if write::dimensions(&tensor.shape) != write::dimensions(&item.shape) {
                let message =
                    format!("it has the shape {:?}, and the file's keys imply {:?}", tensor.shape, item.shape);
                return Err(Failure::corrupt(message).about(item.name));
            }
            let row_elements = item.shape.last().copied().unwrap_or(1);
            let (ggml_type, row_bytes) = widened(tensor, row_elements)?;
            let rows = tensor.elements().checked_div(row_elements).unwrap_or(0) / (origin.tensors.len() as u64).max(1);
            for (id, index) in origin.tensors.iter().zip(0_u64..) {
                let Some(held) = tensors.get_mut(*id as usize) else { continue };
                held.places.push(Place {
                    name: item.name.clone(),
                    file: tensor.file as usize,
                    start: tensor.offset.saturating_add(index.saturating_mul(rows).saturating_mul(row_bytes)),
                    rows,
                    row_elements,
                    row_bytes,
                    ggml_type,
                    origin: Origin { tensors: vec![*id], ..origin.clone() },
                });
            }
        }
        if let Some(held) = tensors.iter().find(|held| held.places.is_empty()) {
            return Err(Failure::corrupt("the file does not hold it").about(&*held.name));
        }
        let mut plan = Plan::new(&*existing.format, "source", Output::file("-source"));
        plan.order = UnitOrder::Independent;
        Ok(Self { plan, decoder: Arc::new(Decoder { tensors }) })
    }
}

/// The type of a tensor, and the bytes of its rows.
fn widened(tensor: &StoredTensor, row_elements: u64) -> Result<(GgmlType, u64)> {
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

impl RowDecoder for Decoder {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let held = self.tensors.get(tensor as usize);
        let held = held.ok_or_else(|| Failure::internal(format!("there is no tensor {tensor}")))?;
        let wanted = first_row..first_row + (out.len() as u64).checked_div(held.columns).unwrap_or(0);
        held.places.iter().try_for_each(|place| {
            let bytes = place.bytes(files)?;
            let row_bytes = in_memory(place.row_bytes)?;
            let mut read = |index: u64, out: &mut [f32]| {
                let start = in_memory(index)?.checked_mul(row_bytes);
                let end = start.and_then(|start| start.checked_add(row_bytes));
                let row = start.zip(end).and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| place.lost())?;
                if out.len() as u64 != place.row_elements {
                    return Err(Failure::internal("a row has another length than its place").about(&*held.name));
                }
                place.widen(row, index, out)
            };
            place.origin.restore(&wanted, held.columns, (place.rows, place.row_elements), &mut read, out)
        })
    }
}

impl Place {
    /// The bytes of its rows.
    fn bytes<'a>(&self, files: &[&'a [u8]]) -> Result<&'a [u8]> {
        let start = usize::try_from(self.start).ok();
        let end = self.rows.checked_mul(self.row_bytes).and_then(|bytes| self.start.checked_add(bytes));
        let range = start.zip(end.and_then(|end| usize::try_from(end).ok()));
        let file = files.get(self.file).copied().unwrap_or_default();
        range.and_then(|(start, end)| file.get(start..end)).ok_or_else(|| self.lost())
    }

    /// Widens its row of this index.
    fn widen(&self, row: &[u8], index: u64, out: &mut [f32]) -> Result<()> {
        let corrupt =
            |what: String| Failure::corrupt(what).about(&*self.name).hint("fetch the file again, or make it anew");
        if let Some(block) = self.ggml_type.first_invalid_block(row) {
            let at = block as u64 * self.ggml_type.block_elements;
            return Err(corrupt(format!("a scale or value of row {index} is infinite or NaN, at weight {at}")));
        }
        self.ggml_type.dequantize(row, out);
        match out.iter().position(|weight| !weight.is_finite()) {
            None => Ok(()),
            Some(at) => Err(corrupt(format!("weight {at} of row {index} is too large for 32 bits"))),
        }
    }

    fn lost(&self) -> Failure {
        Failure::corrupt("its data are not in the file").about(&*self.name)
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
