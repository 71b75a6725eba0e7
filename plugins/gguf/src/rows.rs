//! Rows of a tensor of the file: fetched, quantised or taken over, and written.
//!
//! It knows one tensor at a time; which there are and what was decided about them is the job's.

use std::{ops::Range, sync::Arc};

use qhost_plugin_api::{
    documents::Encoding,
    sdk::{CHUNK_WEIGHTS, Failure, Result, Scratch, SquaredErrors, UnitHandle, squared_errors, with_scratch},
};

use crate::{
    arrange::{Origin, PIECE_WEIGHTS, in_memory},
    format::BlockType,
    importance::{Gathered, Input},
    read,
};

/// How a tensor of the file is made from the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) origin: Origin,
    pub(crate) unit: u32,
    pub(crate) rows: u64,
    pub(crate) row_elements: u64,
    pub(crate) block_type: BlockType,
    /// What is gathered of its columns.
    pub(crate) input: Option<Input>,
    /// How many of its matrices the importance matrix that is read has values for, if it has.
    pub(crate) given: Option<u64>,
    /// Whether its columns are weighed by either, each row for itself.
    pub(crate) weighed: bool,
    /// Whether it is rounded under the Hessian of its inputs.
    pub(crate) compensated: bool,
    /// Whether it is the embedding.
    pub(crate) embeds: bool,
    /// The encoding in which its rows are taken, if not as floats, and whether nothing is lost then.
    pub(crate) taken: Option<(Encoding, bool)>,
}

/// Makes some rows of a tensor, and gives the sums of squared errors and of squares.
///
/// `columns` has what was gathered for each of its matrices, if its columns are weighed.
pub(crate) fn make_rows(
    io: &UnitHandle,
    segment: u32,
    source: &Source,
    columns: &[Arc<Gathered>],
    rows: &Range<u64>,
) -> Result<(f64, f64)> {
    if let Some((encoding, exact)) = &source.taken {
        return take_rows(io, segment, source, (encoding, *exact), rows);
    }
    let count = rows.end - rows.start;
    let (block_type, width) = (source.block_type, source.row_elements);
    let row_bytes = in_memory(block_type.row_bytes(width).unwrap_or(0))?;
    let sums = with_scratch(|scratch| {
        let Scratch { floats, more_floats, bytes } = scratch;
        bytes.resize(in_memory(count)? * row_bytes, 0);
        let mut errors = SquaredErrors::default();
        source.origin.each_piece(io, rows, (source.rows, width), (floats, more_floats), |piece, weights| {
            let bytes = &mut bytes[in_memory(piece.start - rows.start)? * row_bytes..];
            let bytes = &mut bytes[..in_memory(piece.end - piece.start)? * row_bytes];
            source.quantize(columns, piece, weights, bytes)?;
            if block_type.first_invalid_block(bytes).is_some() {
                return Err(too_large(block_type).about(source.name_of(io, piece.start)));
            }
            block_type.add_errors(weights, bytes, &mut errors);
            Ok(())
        })?;
        io.write(segment, rows.start * row_bytes as u64, bytes)?;
        Ok(errors.sums())
    })?;
    io.progress(count * source.row_elements);
    Ok(sums)
}

/// Makes some rows out of what the source stores, and gives the sums of squared errors and of squares; those of rows that
/// are copied are nothing.
fn take_rows(
    io: &UnitHandle,
    segment: u32,
    source: &Source,
    (encoding, exact): (&Encoding, bool),
    rows: &Range<u64>,
) -> Result<(f64, f64)> {
    let count = rows.end - rows.start;
    let (block_type, width) = (source.block_type, source.row_elements);
    let row_bytes = in_memory(block_type.row_bytes(width).unwrap_or(0))?;
    let mut sums = (0.0, 0.0);
    with_scratch(|scratch| {
        scratch.bytes.resize(in_memory(count)? * row_bytes, 0);
        source.origin.whole_rows(rows, source.rows, |tensor, (first, lines), places| {
            let planes = io.planes(tensor, first, lines, encoding)?;
            let mut packed = Vec::new();
            let made = if encoding.is_grouped() {
                packed.resize(in_memory(lines)? * row_bytes, 0);
                let named = |failure: Failure| failure.about(io.tensor_name(tensor));
                block_type.pack(&planes, &mut packed).map_err(named)?;
                if block_type.first_invalid_block(&packed).is_some() {
                    return Err(named(too_large(block_type)));
                }
                scratch.floats.resize(planes.bytes.len(), 0.0);
                planes.weights(&mut scratch.floats)?;
                scratch.more_floats.resize(planes.bytes.len(), 0.0);
                block_type.dequantize(&packed, &mut scratch.more_floats);
                let (errors, squares) = squared_errors(&scratch.floats, &scratch.more_floats);
                if exact && errors > 0.0 {
                    return Err(named(Failure::internal(format!("{} does not hold its numbers", block_type.name()))));
                }
                sums = (sums.0 + errors, sums.1 + squares);
                &packed
            } else {
                &planes.bytes
            };
            for (place, row) in places.zip(made.chunks_exact(row_bytes.max(1))) {
                let at = in_memory(place)? * row_bytes;
                scratch.bytes[at..at + row_bytes].copy_from_slice(row);
            }
            Ok(())
        })?;
        io.write(segment, rows.start * row_bytes as u64, &scratch.bytes)
    })?;
    io.progress(count * width);
    Ok(sums)
}

impl Source {
    /// The matrices that have inputs of their own.
    pub(crate) fn matrices(&self) -> u64 {
        self.input.as_ref().map_or(1, Input::matrices)
    }

    /// The rows that must stay together, or should.
    pub(crate) fn granule(&self) -> u64 {
        self.origin.granule(self.rows, self.row_elements)
    }

    /// Quantises some rows, those of each matrix with its own importances.
    pub(crate) fn quantize(
        &self,
        columns: &[Arc<Gathered>],
        rows: &Range<u64>,
        x: &[f32],
        out: &mut [u8],
    ) -> Result<()> {
        if columns.is_empty() {
            self.block_type.quantize(x, out);
            return Ok(());
        }
        let each = (self.rows / columns.len() as u64).max(1);
        let row_bytes = self.block_type.row_bytes(self.row_elements).unwrap_or(0);
        let (mut x, mut out, mut row) = (x, out, rows.start);
        while row < rows.end {
            let matrix = row / each;
            let end = rows.end.min((matrix + 1) * each);
            let (this_x, rest_x) = x.split_at(in_memory((end - row) * self.row_elements)?);
            let (this_out, rest_out) = out.split_at_mut(in_memory((end - row) * row_bytes)?);
            let importances = columns.get(in_memory(matrix)?);
            let importances = importances.ok_or_else(|| Failure::internal("a matrix without importances"))?;
            self.block_type.quantize_weighted(this_x, &importances.columns, this_out);
            (x, out, row) = (rest_x, rest_out, end);
        }
        Ok(())
    }

    /// Buffers for one chunk: its weights as `f32`, twice if they come in another order, and of rows that come as they are
    /// only a piece at a time; and its bytes, in place of which a piece of the file is held when that is checked.
    pub(crate) fn chunk_memory(&self) -> u64 {
        let all = self.rows.saturating_mul(self.row_elements);
        let weights = (self.granule() * self.row_elements).max(CHUNK_WEIGHTS).min(all);
        let bytes = |weights| self.block_type.row_bytes(weights).unwrap_or(0);
        let floats = match &self.taken {
            // And their codes.
            Some(_) => weights.saturating_mul(4 + 4 + 2),
            None if self.origin.comes_in_pieces() => self.row_elements.max(PIECE_WEIGHTS).min(all).saturating_mul(4),
            None => weights.saturating_mul(4 + 4),
        };
        floats.saturating_add(bytes(weights).max(read::PIECE.min(bytes(all))))
    }

    /// The checkpoint's name for a row.
    pub(crate) fn name_of(&self, io: &UnitHandle, row: u64) -> String {
        let tensors = &self.origin.tensors;
        let each = (self.rows / (tensors.len() as u64).max(1)).max(1);
        let index = usize::try_from(row / each).unwrap_or(0);
        tensors.get(index).or(tensors.first()).map_or_else(String::new, |tensor| io.tensor_name(*tensor))
    }
}

pub(crate) fn too_large(block_type: BlockType) -> Failure {
    Failure::unsupported(format!("its weights are too large for the 16-bit scales of {}", block_type.name()))
        .hint("use --level BF16 or F32")
}
