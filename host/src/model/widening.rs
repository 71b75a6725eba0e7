//! Checkpoints whose weights are stored in fewer bits and are widened while they are read: 8-bit floats
//! with scales for blocks, and microscaled 4-bit floats.
//!
//! It knows the names that transformers gives to scales; the arithmetic is [`crate::stream`]'s.

use serde_json::Value;

use super::Error;
use crate::source::StoredTensor;

/// Weights in a block of MXFP4, which 16 bytes hold.
const MX_BLOCK: u64 = 32;

/// What the config says of how weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As floats.
    Plain,
    /// Some as E4M3 floats, with scales for blocks of so many rows and columns, or one for each tensor.
    Fp8 {
        /// Rows and columns.
        block: Option<(u64, u64)>,
    },
    /// Those of experts as MXFP4.
    Mxfp4,
}

/// How a tensor of the model is stored, by the tensors of the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAs {
    /// The tensor's index.
    pub tensor: usize,
    /// How it becomes floats.
    pub widening: Widening,
}

/// How a tensor becomes floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widening {
    /// It is floats.
    None,
    /// E4M3 floats, each with the scale of its block.
    ScaledE4M3 {
        /// The index of the tensor of scales.
        scales: usize,
        /// Rows of a block.
        block_rows: u64,
        /// Columns of a block.
        block_columns: u64,
    },
    /// MXFP4.
    Mxfp4 {
        /// The index of the tensor of scales.
        scales: usize,
    },
}

impl Scheme {
    /// Reads `quantization_config`.
    ///
    /// # Errors
    /// Fails for a method whose weights are not widened here.
    pub(super) fn of(config: &Value) -> Result<Self, Error> {
        let found = match config.get("quantization_config") {
            None | Some(Value::Null) => return Ok(Self::Plain),
            Some(found) => found,
        };
        match found["quant_method"].as_str() {
            Some("fp8") => {
                let block = match found["weight_block_size"].as_array().map(Vec::as_slice) {
                    None => None,
                    Some([rows, columns]) => rows.as_u64().zip(columns.as_u64()).filter(|(r, c)| *r > 0 && *c > 0),
                    Some(_) => return Err(bad_block(found)),
                };
                if block.is_none() && !found["weight_block_size"].is_null() {
                    return Err(bad_block(found));
                }
                Ok(Self::Fp8 { block })
            }
            Some("mxfp4") => Ok(Self::Mxfp4),
            other => Err(Error::AlreadyQuantised { method: other.unwrap_or("unknown method").to_owned() }),
        }
    }
}

impl Scheme {
    /// What the user should know of it.
    pub(super) fn told(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Fp8 { .. } => Some("weights are stored in 8 bits (FP8); the output is made from what they stand for"),
            Self::Mxfp4 => Some(
                "experts are stored in 4 bits (MXFP4); the output is made from what they stand for, by a second rounding",
            ),
        }
    }
}

fn bad_block(found: &Value) -> Error {
    let value = found["weight_block_size"].to_string();
    Error::BadKey { key: "weight_block_size", value, reason: "not two positive whole numbers" }
}

/// The names under which the scales of a tensor may stand.
pub(super) fn scale_names(name: &str) -> [String; 2] {
    [format!("{name}_scale_inv"), format!("{name}_scale")]
}

/// How a tensor of E4M3 floats is widened with these scales.
///
/// # Errors
/// Fails when the scales' shape or dtype does not fit.
pub(super) fn scaled_e4m3(
    stored: &StoredTensor,
    (index, scales): (usize, &StoredTensor),
    block: Option<(u64, u64)>,
) -> Result<Widening, Error> {
    let [rows, columns] = <[u64; 2]>::try_from(stored.shape.as_slice())
        .map_err(|_| Error::UnsupportedDtype { name: stored.name.clone(), dtype: stored.dtype.clone() })?;
    if !matches!(scales.dtype.as_str(), "F32" | "BF16") {
        return Err(Error::UnsupportedDtype { name: scales.name.clone(), dtype: scales.dtype.clone() });
    }
    let is_scalar = scales.shape.iter().product::<u64>() == 1;
    let (block_rows, block_columns) = match block {
        Some(block) => block,
        None => (rows.max(1), columns.max(1)),
    };
    let expected = vec![rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
    if scales.shape != expected && !(is_scalar && expected == [1, 1]) {
        return Err(Error::WrongShape { name: scales.name.clone(), actual: scales.shape.clone(), expected });
    }
    Ok(Widening::ScaledE4M3 { scales: index, block_rows, block_columns })
}

/// The shape of a tensor that is stored as blocks of MXFP4 with these scales.
///
/// # Errors
/// Fails when blocks and scales do not fit each other.
pub(super) fn mxfp4_shape(blocks: &StoredTensor, scales: &StoredTensor) -> Result<Vec<u64>, Error> {
    for (tensor, dtype) in [(blocks, "U8"), (scales, "U8")] {
        if tensor.dtype != dtype {
            return Err(Error::UnsupportedDtype { name: tensor.name.clone(), dtype: tensor.dtype.clone() });
        }
    }
    match blocks.shape.as_slice() {
        [outer @ .., per_row, 16] if scales.shape == [outer, &[*per_row]].concat() => {
            Ok([outer, &[per_row.saturating_mul(MX_BLOCK)]].concat())
        }
        [outer @ .., _] => {
            Err(Error::WrongShape { name: scales.name.clone(), actual: scales.shape.clone(), expected: outer.to_vec() })
        }
        [] => Err(Error::WrongShape { name: blocks.name.clone(), actual: vec![], expected: vec![16] }),
    }
}
