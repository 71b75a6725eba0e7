//! A tensor of the folder beside the one of the source that it stands for.
//!
//! A linear is read whole and then taken apart on all threads: its outputs are columns of what is stored, so no part of
//! it lies in one piece.

use std::ops::Range;

use qhost_plugin_api::{
    documents::SourceTensor,
    sdk::{CHUNK_WEIGHTS, Failure, Result, RowJob, Scratch, UnitHandle, chunks, widen, with_scratch},
};

use super::scaling::Scaling;
use crate::{Linear, Packed, Packing, Place, plain::Plain, values::Piece};

/// A tensor of the folder, and the one of the source that it stands for.
pub(super) struct Pair {
    pub(super) unit: u32,
    pub(super) source: u32,
    /// Whether the source has the outputs as columns.
    pub(super) transposed: bool,
    pub(super) stored: Stored,
    /// As many factors as it can have, all of them 1.
    pub(super) unscaled: Scaling,
}

/// A tensor of the folder.
pub(super) enum Stored {
    Packed(Box<Linear>),
    Plain(Box<Plain>),
}

/// Squared errors, squares, and the largest error of some rows.
pub(super) type Errors = (f64, f64, f64);

impl Stored {
    /// The shape of what it stands for.
    pub(super) fn shape(&self, transposed: bool) -> Vec<u64> {
        match self {
            Self::Packed(linear) if transposed => vec![linear.shape.inputs as u64, linear.shape.outputs as u64],
            Self::Packed(linear) => vec![linear.shape.outputs as u64, linear.shape.inputs as u64],
            Self::Plain(plain) => plain.stored.shape.clone(),
        }
    }

    /// How many rows are read of it, and how long they are.
    fn rows(&self) -> (u64, u64) {
        match self {
            Self::Packed(linear) => (linear.shape.outputs as u64, linear.shape.inputs as u64),
            Self::Plain(plain) => (plain.rows, plain.row_elements as u64),
        }
    }
}

impl Pair {
    /// A stored tensor, and the one of the source that has this id.
    pub(super) fn of(stored: Stored, (id, source): (u32, &SourceTensor)) -> Self {
        let is_packed = matches!(stored, Stored::Packed(_));
        let unscaled = if is_packed { Scaling::of_rows(stored.rows()) } else { Scaling::of(source) };
        Self { unit: source.unit, source: id, transposed: is_packed && source.transposed, stored, unscaled }
    }

    /// Memory that it takes once, and for every thread.
    pub(super) fn memory(&self) -> (u64, u64) {
        let (_, row_elements) = self.stored.rows();
        let chunk = row_elements.max(CHUNK_WEIGHTS).saturating_mul(4 + 4);
        match &self.stored {
            Stored::Plain(_) => (0, chunk.saturating_add(row_elements.max(CHUNK_WEIGHTS).saturating_mul(4))),
            Stored::Packed(linear) => {
                let rows = (CHUNK_WEIGHTS / row_elements.max(1)).max(1);
                let tables = rows.saturating_mul(linear.shape.groups as u64).saturating_mul(8);
                // Codes as bytes come before weights.
                let tables = tables.saturating_add(row_elements.max(CHUNK_WEIGHTS));
                let groups = row_elements.saturating_mul(4);
                let whole = linear.places().map(|place| place.bytes).sum();
                (whole, chunk.saturating_add(tables).saturating_add(groups))
            }
        }
    }

    /// The errors of the whole tensor, added up in the order of its rows, after what was scaled is as it was.
    pub(super) fn measure(&self, packing: &impl Packing, scaling: Option<&Scaling>, io: &UnitHandle) -> Result<Errors> {
        let errors = self.each(packing, io, |rows, source, stored| {
            if let Some(scaling) = scaling {
                scaling.undo(rows.start, stored);
            }
            io.progress(source.len() as u64);
            errors(source, stored)
        })?;
        Ok(errors
            .into_iter()
            .fold((0.0, 0.0, 0.0), |sum: Errors, part| (sum.0 + part.0, sum.1 + part.1, sum.2.max(part.2))))
    }

    /// Gives rows of both, the source's first, in pieces whose cut depends on the shape alone; what comes of each, in
    /// order.
    pub(super) fn each<T: Send + Sync>(
        &self,
        packing: &impl Packing,
        io: &UnitHandle,
        look: impl Fn(Range<usize>, &[f32], &mut [f32]) -> T + Sync,
    ) -> Result<Vec<T>> {
        let (rows, row_elements) = self.stored.rows();
        let jobs = [RowJob { item: (), rows, row_elements, granule: 1 }];
        let chunks = chunks(&jobs);
        let bytes = match &self.stored {
            Stored::Packed(linear) => Some(Bytes::read(linear, io)?),
            Stored::Plain(_) => None,
        };
        let packed = bytes.as_ref().map(Bytes::packed);
        io.host().parallel_map(chunks.len(), |index| {
            let rows = &chunks[index].rows;
            let range = in_memory(rows.start)?..in_memory(rows.end)?;
            with_scratch(|scratch| {
                match (&self.stored, &packed) {
                    (Stored::Packed(linear), Some(packed)) => {
                        self.packed(linear, packing, packed, io, &range, scratch)?;
                    }
                    (Stored::Plain(plain), _) => self.plain(plain, io, rows, scratch)?,
                    (Stored::Packed(_), None) => return Err(Failure::internal("a linear was not read")),
                }
                Ok(look(range.clone(), &scratch.floats, &mut scratch.more_floats))
            })
        })
    }

    fn plain(&self, plain: &Plain, io: &UnitHandle, rows: &Range<u64>, scratch: &mut Scratch) -> Result<()> {
        let count = in_memory(rows.end - rows.start)?;
        let row_bytes = plain.row_elements * plain.element_bytes;
        io.rows(self.source, rows.start, rows.end - rows.start)?.widen(&mut scratch.floats)?;
        scratch.bytes.resize(count * row_bytes, 0);
        let (file, offset) = (narrow(plain.stored.file), plain.stored.offset + rows.start * row_bytes as u64);
        io.read_existing(file, offset, &mut scratch.bytes)?;
        scratch.more_floats.resize(scratch.floats.len(), 0.0);
        widen(plain.dtype, &scratch.bytes, &mut scratch.more_floats)
    }

    fn packed(
        &self,
        linear: &Linear,
        packing: &impl Packing,
        packed: &Packed<'_>,
        io: &UnitHandle,
        rows: &Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (inputs, outputs) = (linear.shape.inputs, rows.start as u64..rows.end as u64);
        if self.transposed {
            let lease = io.rows(self.source, 0, inputs as u64)?;
            scratch.floats.resize(rows.len() * inputs, 0.0);
            for input in 0..inputs {
                lease.widen_part(input as u64, &outputs, &mut scratch.more_floats)?;
                for (output, weight) in scratch.more_floats.iter().enumerate() {
                    scratch.floats[output * inputs + input] = *weight;
                }
            }
        } else {
            io.rows(self.source, outputs.start, outputs.end - outputs.start)?.widen(&mut scratch.floats)?;
        }
        scratch.more_floats.resize(scratch.floats.len(), 0.0);
        Piece { linear, packing, packed, rows: rows.clone() }.weights(&mut scratch.more_floats)
    }
}

/// The tensors of a linear, in memory.
struct Bytes {
    codes: Vec<u8>,
    zeros: Option<Vec<u8>>,
    scales: Vec<u8>,
    order: Option<Vec<u8>>,
}

impl Bytes {
    fn read(linear: &Linear, io: &UnitHandle) -> Result<Self> {
        let read = |place: &Place| {
            let mut bytes = vec![0; in_memory(place.bytes)?];
            io.read_existing(narrow(place.file), place.offset, &mut bytes)?;
            Ok(bytes)
        };
        Ok(Self {
            codes: read(&linear.codes)?,
            zeros: linear.zeros.as_ref().map(read).transpose()?,
            scales: read(&linear.scales)?,
            order: linear.order.as_ref().map(read).transpose()?,
        })
    }

    fn packed(&self) -> Packed<'_> {
        Packed { codes: &self.codes, zeros: self.zeros.as_deref(), scales: &self.scales, order: self.order.as_deref() }
    }
}

/// Squared errors, squares and the largest error; eight sums side by side, so that the order of additions is fixed.
fn errors(source: &[f32], stored: &[f32]) -> Errors {
    let (mut errors, mut squares, mut largest) = ([0.0_f64; 8], [0.0_f64; 8], 0.0_f64);
    for (source, stored) in source.chunks(8).zip(stored.chunks(8)) {
        for (lane, (x, y)) in source.iter().zip(stored).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            errors[lane] += (x - y) * (x - y);
            squares[lane] += x * x;
            largest = largest.max((x - y).abs());
        }
    }
    (errors.iter().sum(), squares.iter().sum(), largest)
}

fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Failure::internal("a tensor is longer than memory"))
}

fn narrow(file: usize) -> u32 {
    u32::try_from(file).unwrap_or(u32::MAX)
}
