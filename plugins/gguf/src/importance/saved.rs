//! An importance matrix as a file: the GGUF form of `llama-imatrix`, which `llama-quantize` reads.
//!
//! For every matrix `NAME.in_sum2` has the sum of squares of each column of its input, a row for each expert, and
//! `NAME.counts` the number of tokens. What a unit gathers is saved with it, so that an interrupted run loses none.

use std::{collections::BTreeMap, sync::Arc};

use qhost_plugin_api::{
    documents::CalibrationData,
    sdk::{BesideFiles, Failure, Result},
};

use super::Gathered;
use crate::{
    cursor::Cursor,
    format::BlockType,
    metadata::{Array, Metadata, Value, write_string},
    write::{self, Unplaced},
};

/// The file of one run.
#[derive(Debug)]
pub(crate) struct ImportanceFile {
    data: Option<CalibrationData>,
}

/// What was gathered for a tensor: sums row by row, and counts.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    columns: u64,
    sums: Vec<f32>,
    counts: Vec<f32>,
}

impl ImportanceFile {
    /// What its name ends in.
    pub(crate) const SUFFIX: &str = ".imatrix.gguf";

    /// The file that tells of this data.
    pub(crate) fn new(data: Option<CalibrationData>) -> Self {
        Self { data }
    }

    /// Under which key a unit saves its part.
    pub(crate) fn key(unit: u32) -> String {
        format!("imatrix-{unit}")
    }

    fn metadata(&self) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        metadata.push("general.type", "imatrix")?;
        if let Some(data) = &self.data {
            metadata.push("imatrix.datasets", Value::Array(Array::String(vec![data.source.clone()])))?;
            metadata.push("imatrix.chunk_count", data.rows)?;
            metadata.push("imatrix.chunk_size", data.longest_row)?;
        }
        Ok(metadata)
    }
}

/// A unit's part: for every tensor its name, and what was gathered for each of its matrices.
pub(crate) fn record<'a>(gathered: impl Iterator<Item = (&'a str, &'a [Arc<Gathered>])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, matrices) in gathered {
        write_string(name, &mut bytes);
        bytes.extend((matrices.len() as u64).to_le_bytes());
        bytes.extend(matrices.first().map_or(0, |matrix| matrix.sums.len() as u64).to_le_bytes());
        let sums = matrices.iter().flat_map(|matrix| &matrix.sums);
        let counts = matrices.iter().map(|matrix| &matrix.count);
        bytes.extend(sums.chain(counts).flat_map(|number| number.to_le_bytes()));
    }
    bytes
}

/// Reads the part of a unit.
fn entries(bytes: &[u8], all: &mut BTreeMap<String, Entry>) -> Result<()> {
    let mut cursor = Cursor::new(bytes);
    while cursor.left() > 0 {
        let name = cursor.string()?;
        let (matrices, columns) = (cursor.u64()?, cursor.u64()?);
        let numbers = |cursor: &mut Cursor<'_>, count: Option<u64>| -> Result<Vec<f32>> {
            let bytes = count.and_then(|count| count.checked_mul(4));
            let bytes =
                cursor.take(bytes.ok_or_else(|| Failure::corrupt("a part of an importance matrix is damaged"))?)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
        };
        let sums = numbers(&mut cursor, matrices.checked_mul(columns))?;
        let counts = numbers(&mut cursor, Some(matrices))?;
        all.insert(name, Entry { columns, sums, counts });
    }
    Ok(())
}

impl BesideFiles for ImportanceFile {
    fn make(&self, _suffix: &str, saved: &BTreeMap<&str, &[u8]>) -> Result<Vec<u8>> {
        let mut all = BTreeMap::new();
        for (_, bytes) in saved.iter().filter(|(key, _)| key.starts_with("imatrix-")) {
            entries(bytes, &mut all)?;
        }
        let mut tensors = Vec::new();
        let mut data = Vec::new();
        for (name, entry) in &all {
            let matrices = entry.counts.len() as u64;
            let parts = [("in_sum2", entry.columns, &entry.sums), ("counts", 1, &entry.counts)];
            for (part, columns, numbers) in parts {
                let shape = vec![matrices, columns];
                tensors.push(Unplaced { name: format!("{name}.{part}"), shape, block_type: BlockType::F32 });
                data.push(numbers);
            }
        }
        let layout = write::lay_out(&self.metadata()?, tensors)?;
        let mut file = layout.header;
        let start = file.len();
        for (tensor, numbers) in layout.tensors.iter().zip(data) {
            let place = usize::try_from(tensor.offset).map_err(|_| Failure::internal("too long a file"))?;
            file.resize(start + place, 0);
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        file.resize(usize::try_from(layout.file_bytes).map_err(|_| Failure::internal("too long a file"))?, 0);
        Ok(file)
    }
}
