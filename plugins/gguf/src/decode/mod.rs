//! The weights of a checkpoint out of a GGUF file, whoever made it: what [`items`] says of the writing, read
//! backwards.
//!
//! It knows which tensors of the file a tensor of the checkpoint is in; the file's bytes come from the host.

mod encodings;
mod place;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use qhost_plugin_api::{
    documents::{Encoding, Findings, Model, Output, Plan, Reading, RoleKind, StoredTensor, UnitOrder},
    sdk::{
        DECODE, Failure, FilesHandle, FormatJob, FormatService, Planes, Result, RowDecoder, UnitHandle, decode_service,
    },
};

use crate::{
    arrange::Origin,
    families,
    items::{self, Content},
    write,
};
use place::{Place, widened};

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

impl RowDecoder for Decoder {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let held = self.held(tensor)?;
        let wanted = first_row..first_row + (out.len() as u64).checked_div(held.columns).unwrap_or(0);
        held.places.iter().try_for_each(|place| {
            let bytes = place.bytes(files)?;
            let mut read = |index: u64, out: &mut [f32]| place.widen(bytes, index, out);
            place.origin.restore(&wanted, held.columns, (place.rows, place.row_elements), &mut read, out)
        })
    }

    fn encodings(&self, files: &[&[u8]]) -> Result<Vec<Vec<Encoding>>> {
        self.tensors.iter().map(|held| held.encodings(files)).collect()
    }

    fn planes(&self, files: &[&[u8]], tensor: u32, first_row: u64, planes: &mut Planes) -> Result<()> {
        let wanted = first_row..first_row.saturating_add(planes.rows() as u64);
        self.held(tensor)?.planes(files, &wanted, planes)
    }
}

impl Decoder {
    fn held(&self, tensor: u32) -> Result<&Held> {
        self.tensors.get(tensor as usize).ok_or_else(|| Failure::internal(format!("there is no tensor {tensor}")))
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
