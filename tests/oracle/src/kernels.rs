//! ggml's reference quantisers and dequantisers, a type at a time.
#![expect(unsafe_code, reason = "ggml takes pointers and trusts its caller")]

use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

use crate::ffi::c_int;
use crate::{Error, Result};

/// What ggml knows of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeInfo {
    /// The name, in ggml's spelling (`q4_K`).
    pub name: String,
    /// Weights in a block.
    pub block_elements: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// False for floats and integers.
    pub quantized: bool,
}

/// What ggml knows of the type of a number.
///
/// # Errors
/// Fails if the number is unassigned or its type was removed from ggml.
pub fn type_info(ggml_type: u32) -> Result<TypeInfo> {
    let traits = traits(ggml_type)?;
    // SAFETY: every type has a name, a literal.
    let name = unsafe { CStr::from_ptr(traits.type_name) };
    match (usize::try_from(traits.blck_size), traits.type_size) {
        (Ok(block_elements @ 1..), block_bytes @ 1..) => Ok(TypeInfo {
            name: name.to_string_lossy().into_owned(),
            block_elements,
            block_bytes,
            quantized: traits.is_quantized,
        }),
        // A removed type has no blocks.
        _ => Err(Error::UnknownType(ggml_type)),
    }
}

/// llama.cpp's name of a file type, such as `Q4_K - Medium`.
#[must_use]
pub fn file_type_name(file_type: u32) -> String {
    // SAFETY: takes any number; the name is a literal.
    unsafe { CStr::from_ptr(sys::llama_ftype_name(file_type)) }.to_string_lossy().into_owned()
}

/// The bytes of a row.
///
/// # Errors
/// Fails if ggml has no such type or the row is no whole number of blocks.
pub fn row_size(ggml_type: u32, row_elements: usize) -> Result<usize> {
    let info = type_info(ggml_type)?;
    if !row_elements.is_multiple_of(info.block_elements) {
        return Err(Error::Length(format!(
            "a row of {row_elements} weights is no whole number of {} blocks",
            info.name
        )));
    }
    // SAFETY: the type exists and the row is whole.
    Ok(unsafe { sys::ggml_row_size(ggml_type, c_int(row_elements)?) })
}

/// Quantises rows with `ggml_quantize_chunk`, without an importance matrix.
///
/// # Errors
/// Fails if ggml cannot make the type so, or the weights are no whole number of rows of whole blocks.
pub fn quantize_chunk(ggml_type: u32, x: &[f32], row_elements: usize) -> Result<Vec<u8>> {
    let rows = x.len().checked_div(row_elements).unwrap_or(0);
    let mut out = Aligned::zeroed(rows * row_size(ggml_type, row_elements)?);
    quantize_chunk_into(ggml_type, x, row_elements, None, &mut out.words)?;
    Ok(out.bytes())
}

/// Quantises rows with `ggml_quantize_chunk` and an importance matrix: the importance of each column.
///
/// # Errors
/// As [`quantize_chunk`].
pub fn quantize_chunk_weighted(ggml_type: u32, x: &[f32], columns: &[f32]) -> Result<Vec<u8>> {
    let rows = x.len().checked_div(columns.len()).unwrap_or(0);
    let mut out = Aligned::zeroed(rows * row_size(ggml_type, columns.len())?);
    quantize_chunk_into(ggml_type, x, columns.len(), Some(columns), &mut out.words)?;
    Ok(out.bytes())
}

/// As [`quantize_chunk`] and [`quantize_chunk_weighted`], into memory that is there: for measuring.
///
/// # Errors
/// As [`quantize_chunk`], and if there is not enough room or the importances are not as long as a row.
pub fn quantize_chunk_into(
    ggml_type: u32,
    x: &[f32],
    row_elements: usize,
    columns: Option<&[f32]>,
    out: &mut [u64],
) -> Result<()> {
    let info = type_info(ggml_type)?;
    let row_bytes = row_size(ggml_type, row_elements)?;
    if row_elements == 0 || !x.len().is_multiple_of(row_elements) {
        return Err(Error::Length(format!("{} weights are no whole rows of {row_elements}", x.len())));
    }
    if let Some(columns) = columns.filter(|columns| columns.len() != row_elements) {
        return Err(Error::Length(format!("{} importances are not those of {row_elements} columns", columns.len())));
    }
    let rows = x.len() / row_elements;
    if out.len() * 8 < rows * row_bytes {
        return Err(Error::Length(format!("no room for {rows} rows of {row_bytes} bytes")));
    }
    // Q8_1 and Q8_K are what activations become, and ggml aborts when asked for them here.
    let float = [sys::GGML_TYPE_F32, sys::GGML_TYPE_F16, sys::GGML_TYPE_BF16].contains(&ggml_type);
    let intermediate = [sys::GGML_TYPE_Q8_1, sys::GGML_TYPE_Q8_K].contains(&ggml_type);
    // SAFETY: the type exists.
    let wants_importance = unsafe { sys::ggml_quantize_requires_imatrix(ggml_type) };
    if !(float || info.quantized) || intermediate || (wants_importance && columns.is_none()) {
        return Err(Error::NotConvertible { what: "quantise without an importance matrix to", name: info.name });
    }
    let (rows_c, row_elements_c) = (c_int(rows)?, c_int(row_elements)?);
    // SAFETY: the type has a quantiser that needs no importance matrix, or there is one, which is as long
    // as a row; `x` holds `rows` rows, `out` has room for as many rows of the type's size, in the alignment
    // of every type.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            ggml_type,
            x.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            rows_c,
            row_elements_c,
            columns.map_or(std::ptr::null(), <[f32]>::as_ptr),
        )
    };
    debug_assert_eq!(written, rows * row_bytes);
    Ok(())
}

/// Widens blocks with the type's `to_float`.
///
/// # Errors
/// Fails if ggml cannot widen the type or the bytes are no whole blocks.
pub fn dequantize(ggml_type: u32, bytes: &[u8]) -> Result<Vec<f32>> {
    let info = type_info(ggml_type)?;
    if !bytes.len().is_multiple_of(info.block_bytes) {
        return Err(Error::Length(format!("{} bytes are no whole number of {} blocks", bytes.len(), info.name)));
    }
    let mut out = vec![0.0; bytes.len() / info.block_bytes * info.block_elements];
    dequantize_into(ggml_type, &Aligned::new(bytes).words, &mut out)?;
    Ok(out)
}

/// As [`dequantize`], of as many weights as there is room for, into memory that is there: for measuring.
///
/// # Errors
/// Fails if ggml cannot widen the type, or there are no whole blocks or too few of them for the weights.
pub fn dequantize_into(ggml_type: u32, blocks: &[u64], out: &mut [f32]) -> Result<()> {
    let bytes = row_size(ggml_type, out.len())?;
    if blocks.len() * 8 < bytes {
        return Err(Error::Length(format!("{} weights are more than {} bytes hold", out.len(), blocks.len() * 8)));
    }
    if ggml_type == sys::GGML_TYPE_F32 {
        for (pair, word) in out.chunks_mut(2).zip(blocks) {
            for (weight, bytes) in pair.iter_mut().zip(word.to_ne_bytes().as_chunks().0) {
                *weight = f32::from_ne_bytes(*bytes);
            }
        }
        return Ok(());
    }
    let Some(to_float) = traits(ggml_type)?.to_float else {
        return Err(Error::NotConvertible { what: "widen", name: type_info(ggml_type)?.name });
    };
    // SAFETY: `blocks` holds the whole blocks of as many weights as `out` has room for, in the type's alignment.
    unsafe { to_float(blocks.as_ptr().cast(), out.as_mut_ptr(), c_int(out.len())?) };
    Ok(())
}

/// Whether `ggml_validate_row_data` accepts the bytes. What it finds it writes to the process's
/// standard error, past the log: that cannot be silenced.
///
/// # Errors
/// Fails if ggml has no such type.
pub fn validate_row_data(ggml_type: u32, bytes: &[u8]) -> Result<bool> {
    type_info(ggml_type)?;
    let input = Aligned::new(bytes);
    // SAFETY: `input` holds that many bytes, in the alignment of every type; the function checks
    // that they are whole blocks.
    Ok(unsafe { sys::ggml_validate_row_data(ggml_type, input.words.as_ptr().cast(), bytes.len()) })
}

fn traits(ggml_type: u32) -> Result<&'static sys::ggml_type_traits> {
    if ggml_type >= sys::GGML_TYPE_COUNT {
        return Err(Error::UnknownType(ggml_type));
    }
    // SAFETY: the number is below the count, and the table is static.
    let traits = unsafe { &*sys::ggml_get_type_traits(ggml_type) };
    if traits.type_name.is_null() { Err(Error::UnknownType(ggml_type)) } else { Ok(traits) }
}

/// Bytes at an address that suits every block type.
struct Aligned {
    words: Vec<u64>,
    length: usize,
}

impl Aligned {
    fn zeroed(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(8)], length }
    }

    fn new(bytes: &[u8]) -> Self {
        let mut aligned = Self::zeroed(bytes.len());
        for (word, bytes) in aligned.words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        aligned
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(self.length);
        bytes
    }
}
