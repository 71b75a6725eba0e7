//! Making the tensors of a unit: rows as they are lent, rounded to the type of the level, and turned where the folder has
//! them the other way round.

use std::ops::Range;

use qhost_plugin_api::sdk::{
    CHUNK_WEIGHTS, Failure, Result, RowJob, Rows, Scratch, UnitHandle, chunks, squared_errors, widen, with_scratch,
};

use crate::{float_type::FloatType, items::Item};

/// The figure about a tensor: the root of the mean square of the error, by that of the weights.
const RELATIVE_ERROR: &str = "relative_rms_error";

/// A part of a tensor that is made at once.
enum Piece<'a> {
    /// Rows that are stored as they lie.
    Rows(&'a Item, Range<u64>),
    /// A matrix that is turned, by its place among those of the tensor.
    Matrix(&'a Item, u64),
}

/// The sums of squared errors and of squares.
type Squares = (f64, f64);

/// Writes tensors of a unit, and tells how far they are from the source.
///
/// # Errors
/// Fails with kind `CORRUPT` for a weight that is no finite number, with kind `UNSUPPORTED` for one that is too large for
/// its type, and when rows cannot be read or written.
pub(crate) fn write(io: &UnitHandle, items: &[&Item]) -> Result<()> {
    let jobs: Vec<_> = items
        .iter()
        .filter(|item| !item.turned)
        .map(|item| {
            let (row_elements, rows) = item.source_rows();
            RowJob { item: *item, rows, row_elements, granule: 1 }
        })
        .collect();
    let rows = chunks(&jobs);
    let rows = rows.iter().map(|chunk| Piece::Rows(chunk.item, chunk.rows.clone()));
    let turned = items.iter().filter(|item| item.turned);
    let matrices = turned.flat_map(|item| (0..matrices(item)).map(|index| Piece::Matrix(item, index)));
    let pieces: Vec<_> = rows.chain(matrices).collect();
    let sums = io.host().parallel_map(pieces.len(), |index| {
        with_scratch(|scratch| match &pieces[index] {
            Piece::Rows(item, rows) => copy(io, item, rows, scratch),
            Piece::Matrix(item, index) => turn(io, item, *index, scratch),
        })
    })?;
    for item in items {
        // Added up in the order of the pieces, so that the figure does not depend on the threads.
        let of_item = pieces.iter().zip(&sums).filter(|(piece, _)| piece.segment() == item.segment);
        let add = |(errors, squares): Squares, (_, more): (&Piece<'_>, &Squares)| (errors + more.0, squares + more.1);
        let (errors, squares) = of_item.fold((0.0, 0.0), add);
        io.metric(item.segment, RELATIVE_ERROR, if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 });
    }
    Ok(())
}

impl Piece<'_> {
    fn segment(&self) -> u32 {
        match self {
            Self::Rows(item, _) | Self::Matrix(item, _) => item.segment,
        }
    }
}

/// Buffers of a thread that makes a tensor.
pub(crate) fn memory_per_thread(item: &Item) -> u64 {
    let (row, rows) = item.source_rows();
    let at_once = row.max(CHUNK_WEIGHTS).min(row.saturating_mul(rows));
    // The weights as they come and as they are stored, both in floats, and their bytes.
    let buffers = at_once.saturating_mul(4 + 4 + item.to.bytes());
    if item.turned { buffers.saturating_add(matrix_bytes(item)) } else { buffers }
}

/// Rows as they lie.
fn copy(io: &UnitHandle, item: &Item, rows: &Range<u64>, scratch: &mut Scratch) -> Result<Squares> {
    let lent = io.rows(item.tensor, rows.start, rows.end - rows.start)?;
    scratch.bytes.clear();
    let sums = round(io, item, &lent, rows.start, scratch)?;
    io.write(item.segment, rows.start * lent.row_elements() * item.to.bytes(), &scratch.bytes)?;
    io.progress(lent.rows() * lent.row_elements());
    Ok(sums)
}

/// A matrix the other way round: its rows are read in parts, and their numbers put into place.
fn turn(io: &UnitHandle, item: &Item, index: u64, scratch: &mut Scratch) -> Result<Squares> {
    let (row, _) = item.source_rows();
    let rows = item.shape.last().copied().unwrap_or(1);
    let mut turned = vec![0; in_memory(matrix_bytes(item))?];
    let mut sums = (0.0, 0.0);
    for chunk in chunks(&[RowJob { item: (), rows, row_elements: row, granule: 1 }]) {
        let first = index * rows + chunk.rows.start;
        let lent = io.rows(item.tensor, first, chunk.rows.end - chunk.rows.start)?;
        scratch.bytes.clear();
        let (errors, squares) = round(io, item, &lent, first, scratch)?;
        sums = (sums.0 + errors, sums.1 + squares);
        let (place, across, row) = (in_memory(chunk.rows.start)?, in_memory(rows)?, in_memory(row)?);
        match item.to {
            FloatType::F32 => scatter::<4>(&scratch.bytes, row, &mut turned, place, across),
            FloatType::F16 | FloatType::BF16 => scatter::<2>(&scratch.bytes, row, &mut turned, place, across),
        }
        io.progress(lent.rows() * lent.row_elements());
    }
    io.write(item.segment, index * matrix_bytes(item), &turned)?;
    Ok(sums)
}

/// Puts rows of numbers of `N` bytes into a matrix as columns, from one on.
fn scatter<const N: usize>(rows: &[u8], row_elements: usize, turned: &mut [u8], first: usize, across: usize) {
    let (numbers, turned) = (rows.as_chunks::<N>().0, turned.as_chunks_mut::<N>().0);
    for (column, line) in turned.chunks_exact_mut(across.max(1)).enumerate() {
        for (number, row) in line[first..].iter_mut().zip(numbers.chunks_exact(row_elements.max(1))) {
            *number = row[column];
        }
    }
}

/// Appends lent rows to the bytes of the buffers as they are stored, and gives the sums of the squares.
fn round(io: &UnitHandle, item: &Item, lent: &Rows<'_>, first_row: u64, scratch: &mut Scratch) -> Result<Squares> {
    lent.widen(&mut scratch.floats)?;
    if let Some(index) = item.to.narrow(&scratch.floats, &mut scratch.bytes) {
        let value = scratch.floats.get(index).copied().unwrap_or_default();
        let row = first_row + (index as u64).checked_div(lent.row_elements()).unwrap_or(0);
        return Err(too_large(item.to, value, row).about(io.tensor_name(item.tensor)));
    }
    if item.is_exact() {
        return Ok((0.0, 0.0));
    }
    scratch.more_floats.resize(scratch.floats.len(), 0.0);
    widen(item.to.dtype(), &scratch.bytes, &mut scratch.more_floats)?;
    Ok(squared_errors(&scratch.floats, &scratch.more_floats))
}

fn too_large(float: FloatType, value: f32, row: u64) -> Failure {
    let wider = match float {
        FloatType::F16 => "take --level BF16 or F32",
        FloatType::BF16 | FloatType::F32 => "take --level F32",
    };
    let (name, largest) = (float.name(), float.largest());
    Failure::unsupported(format!("has the weight {value} in row {row}, and {name} goes up to {largest}")).hint(wider)
}

/// Matrices in a tensor.
fn matrices(item: &Item) -> u64 {
    item.shape.split_last_chunk::<2>().map_or(1, |(outer, _)| outer.iter().product())
}

/// Bytes of a matrix of a tensor.
fn matrix_bytes(item: &Item) -> u64 {
    item.elements().checked_div(matrices(item)).unwrap_or(0).saturating_mul(item.to.bytes())
}

fn in_memory(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Failure::internal("more than fits into memory"))
}
