//! The weights of the model out of a folder, as the host asks for them.
//!
//! The tensors of the model have the folder's own names; a linear's weight stands for its packed tensors.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use qhost_folder::StoredAt;
use qhost_plugin_api::{
    documents::{Encoding, Findings, Model, Output, Plan, Reading, SourceTensor, UnitOrder},
    sdk::{
        DECODE, Failure, FilesHandle, FormatJob, FormatService, Planes, Result, RowDecoder, UnitHandle, decode_service,
        first_non_finite,
    },
};

use crate::{
    Linear, Packed, Packing,
    content::Told,
    linear::DAMAGED,
    plain::Plain,
    values::{Piece, encodings},
};

/// A folder as the source of weights.
pub struct Decoding<P> {
    plan: Plan,
    decoder: Arc<Decoder<P>>,
}

/// For every tensor of the model, where it is.
struct Decoder<P> {
    packing: P,
    tensors: Vec<Held>,
}

/// A tensor of the model.
enum Held {
    Packed(Linear),
    Plain(Plain),
}

impl<P: Packing> Decoding<P> {
    /// Finds every tensor of the model in the folder.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when one is not there or has another shape, and with `UNSUPPORTED` when one is stored
    /// otherwise than as codes or floats.
    pub fn open(model: &Model, existing: &Reading) -> Result<Self> {
        let Told { packing, linears, plain } = Told::<P>::of(existing)?;
        let linears: BTreeMap<String, Linear> =
            linears.into_iter().map(|linear| (format!("{}.weight", linear.name), linear)).collect();
        let plain: BTreeMap<String, StoredAt> = plain.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let held = |tensor: &SourceTensor| {
            let shape = tensor.shape.as_slice();
            if let Some(linear) = linears.get(&tensor.name) {
                let own = [linear.shape.outputs as u64, linear.shape.inputs as u64];
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
        Ok(Self { plan, decoder: Arc::new(Decoder { packing, tensors }) })
    }

    /// What gives the weights.
    #[must_use]
    pub fn decoder(&self) -> Arc<dyn RowDecoder> {
        self.decoder.clone()
    }
}

fn misshapen(tensor: &SourceTensor, stored: &[u64]) -> Failure {
    Failure::corrupt(format!("it has the shape {stored:?}, and the config implies {:?}", tensor.shape))
        .about(&*tensor.name)
}

impl<P: Packing> Decoder<P> {
    fn held(&self, tensor: u32) -> Result<&Held> {
        let held = self.tensors.get(tensor as usize);
        held.ok_or_else(|| Failure::internal(format!("there is no tensor {tensor}")))
    }

    fn rows_of<'a>(&'a self, linear: &'a Linear, packed: &'a Packed<'a>, first_row: u64, rows: usize) -> Piece<'a, P> {
        let first = usize::try_from(first_row).unwrap_or(usize::MAX);
        Piece { linear, packing: &self.packing, packed, rows: first..first.saturating_add(rows) }
    }
}

impl<P: Packing> RowDecoder for Decoder<P> {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let (name, row_elements) = match self.held(tensor)? {
            Held::Plain(plain) => {
                plain.fill(files, first_row, out)?;
                (&plain.name, plain.row_elements)
            }
            Held::Packed(linear) => {
                let packed = linear.packed(files)?;
                self.rows_of(linear, &packed, first_row, out.len() / linear.shape.inputs).weights(out)?;
                (&linear.name, linear.shape.inputs)
            }
        };
        match first_non_finite(out) {
            None => Ok(()),
            Some(index) => {
                let (row, column) = (first_row + (index / row_elements.max(1)) as u64, index % row_elements.max(1));
                let what = format!("its weight in row {row}, column {column} is {}", out[index]);
                Err(Failure::corrupt(what).about(&**name).hint(DAMAGED))
            }
        }
    }

    fn encodings(&self, files: &[&[u8]]) -> Result<Vec<Vec<Encoding>>> {
        let of = |held: &Held| match held {
            Held::Plain(plain) => Ok(vec![Encoding::float(&*plain.stored.dtype)]),
            Held::Packed(linear) => encodings(linear, &self.packing, &linear.packed(files)?),
        };
        self.tensors.iter().map(of).collect()
    }

    fn planes(&self, files: &[&[u8]], tensor: u32, first_row: u64, planes: &mut Planes) -> Result<()> {
        match self.held(tensor)? {
            Held::Plain(plain) => {
                let what = format!("its rows are not given as {}", planes.encoding());
                Err(Failure::internal(what).about(&*plain.name))
            }
            Held::Packed(linear) => {
                let packed = linear.packed(files)?;
                self.rows_of(linear, &packed, first_row, planes.rows()).planes(planes)
            }
        }
    }
}

impl<P: Packing> FormatJob for Decoding<P> {
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
