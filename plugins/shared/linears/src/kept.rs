//! Tensors that are written as they are.

use qhost_plugin_api::{
    documents::SourceTensor,
    sdk::{Failure, Result, RowJob, UnitHandle, chunks, with_scratch},
};
use qhost_rounding::f16;

use crate::{Outputs, in_memory};

/// A tensor that is written as it is, or a part of one.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its name in the output.
    pub name: String,
    /// The source tensor.
    pub tensor: u32,
    /// The part: a row of it, and which elements of that row. All of it if absent.
    pub part: Option<(u64, Outputs)>,
    /// The shape in the output.
    pub shape: Vec<u64>,
    /// How an element is stored.
    pub dtype: String,
    /// Whether it is narrowed to binary16.
    pub narrowed: bool,
    /// The unit that it belongs to.
    pub unit: u32,
    /// Where it goes.
    pub segment: u32,
}

impl Kept {
    /// All of a tensor.
    #[must_use]
    pub fn whole(id: u32, tensor: &SourceTensor) -> Self {
        Self {
            name: tensor.name.clone(),
            tensor: id,
            part: None,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.clone(),
            narrowed: false,
            unit: tensor.unit,
            segment: 0,
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Writes tensors that are kept.
///
/// # Errors
/// Fails when they cannot be read or written.
pub fn copy(io: &UnitHandle, kept: &[&Kept]) -> Result<()> {
    let jobs: Vec<_> = kept
        .iter()
        .map(|kept| {
            let (row_elements, rows) =
                kept.shape.split_last().map_or((1, 1), |(last, outer)| (*last, outer.iter().product()));
            RowJob { item: *kept, rows, row_elements, granule: 1 }
        })
        .collect();
    let chunks = chunks(&jobs);
    io.host().parallel_map(chunks.len(), |index| {
        let (kept, rows) = (*chunks[index].item, &chunks[index].rows);
        if let Some((row, elements)) = kept.part {
            let lent = io.rows(kept.tensor, row, 1)?;
            let size = lent.bytes().len() / in_memory(elements.of)?.max(1);
            let taken = lent.bytes().chunks_exact(size.max(1)).skip(in_memory(elements.first)?);
            return with_scratch(|scratch| {
                scratch.bytes.clear();
                scratch.bytes.extend(taken.step_by(in_memory(elements.step)?).flatten());
                io.write(kept.segment, 0, &scratch.bytes)?;
                io.progress(kept.elements());
                Ok(())
            });
        }
        let lent = io.rows(kept.tensor, rows.start, rows.end - rows.start)?;
        if kept.narrowed {
            return with_scratch(|scratch| {
                lent.widen(&mut scratch.floats)?;
                scratch.bytes.clear();
                scratch.bytes.extend(scratch.floats.iter().flat_map(|number| f16::from_f32(*number).to_le_bytes()));
                if let Some(number) = scratch.floats.iter().find(|number| !f16::from_f32(**number).is_finite()) {
                    let what = format!("a number is {number}, which 16 bits do not hold");
                    return Err(Failure::unsupported(what).about(&*kept.name));
                }
                io.write(kept.segment, rows.start * lent.row_elements() * 2, &scratch.bytes)?;
                io.progress(lent.rows() * lent.row_elements());
                Ok(())
            });
        }
        let row_bytes = lent.bytes().len() as u64 / lent.rows().max(1);
        io.write(kept.segment, rows.start * row_bytes, lent.bytes())?;
        io.progress(lent.rows() * lent.row_elements());
        Ok(())
    })?;
    Ok(())
}
