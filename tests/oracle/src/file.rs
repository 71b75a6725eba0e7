//! Whole files through `llama_model_quantize`.
#![expect(unsafe_code, reason = "llama.cpp takes a struct of pointers")]

use std::{
    collections::BTreeMap,
    ffi::{CString, c_char},
    path::Path,
};

use llama_cpp_sys_2 as sys;

use crate::ffi::{c_path, c_text, threads};
use crate::{Error, Result, log};

/// How a file is quantised: what `llama-quantize` takes on its command line.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The level: a number of `enum llama_ftype`.
    pub file_type: u32,
    /// Threads; the number of cores if `None`. The bytes do not depend on it.
    pub threads: Option<usize>,
    /// The level's default type for every tensor, instead of its mixture.
    pub pure: bool,
    /// Takes input that is quantised already.
    pub allow_requantize: bool,
    /// Leaves `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// A ggml type for `output.weight`.
    pub output_type: Option<u32>,
    /// A ggml type for the token embeddings.
    pub embedding_type: Option<u32>,
    /// An importance matrix: of tensors by name, the importance of every column, matrix after matrix.
    pub importances: BTreeMap<String, Vec<f32>>,
    /// Patterns of names, each with a ggml type; the first that is found counts.
    pub tensor_types: Vec<(String, u32)>,
    /// Keys that are given, in order.
    pub keys: Vec<(String, Given)>,
}

/// The value of a key that is given.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is its own name")]
pub enum Given {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl Recipe {
    /// A level with all that comes with it.
    #[must_use]
    pub fn new(file_type: u32) -> Self {
        Self {
            file_type,
            threads: None,
            pure: false,
            allow_requantize: false,
            leave_output_tensor: false,
            output_type: None,
            embedding_type: None,
            importances: BTreeMap::new(),
            tensor_types: Vec::new(),
            keys: Vec::new(),
        }
    }
}

/// Quantises a GGUF file.
///
/// # Errors
/// Fails if llama.cpp does.
pub fn quantize_file(input: &Path, output: &Path, recipe: &Recipe) -> Result<()> {
    let (input_c, output_c) = (c_path(input)?, c_path(output)?);
    let names: Vec<_> = recipe.importances.keys().map(|name| c_text(name)).collect::<Result<_>>()?;
    let entry = |(name, data): (&CString, &Vec<f32>)| sys::llama_model_imatrix_data {
        name: name.as_ptr(),
        data: data.as_ptr(),
        size: data.len(),
    };
    let mut entries: Vec<_> = names.iter().zip(recipe.importances.values()).map(entry).collect();
    entries.push(sys::llama_model_imatrix_data { name: std::ptr::null(), data: std::ptr::null(), size: 0 });
    let patterns: Vec<_> = recipe.tensor_types.iter().map(|(pattern, _)| c_text(pattern)).collect::<Result<_>>()?;
    let typed = patterns.iter().zip(&recipe.tensor_types);
    let typed =
        typed.map(|(pattern, (_, kind))| sys::llama_model_tensor_override { pattern: pattern.as_ptr(), type_: *kind });
    let mut types: Vec<_> = typed.collect();
    types.push(sys::llama_model_tensor_override { pattern: std::ptr::null(), type_: 0 });
    let mut keys: Vec<_> = recipe.keys.iter().map(|(key, value)| given(key, value)).collect::<Result<_>>()?;
    // A key without a name ends the list.
    keys.push(given("", &Given::Bool(false))?);
    // SAFETY: takes no arguments.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = threads(recipe.threads);
    params.ftype = recipe.file_type;
    params.pure_ = recipe.pure;
    params.allow_requantize = recipe.allow_requantize;
    params.quantize_output_tensor = !recipe.leave_output_tensor;
    params.output_tensor_type = recipe.output_type.unwrap_or(params.output_tensor_type);
    params.token_embedding_type = recipe.embedding_type.unwrap_or(params.token_embedding_type);
    if !recipe.importances.is_empty() {
        params.imatrix = entries.as_ptr();
    }
    if !recipe.tensor_types.is_empty() {
        params.tt_overrides = types.as_ptr();
    }
    if !recipe.keys.is_empty() {
        params.kv_overrides = keys.as_ptr();
    }
    log::recorded(format!("quantise {} to file type {}", input.display(), recipe.file_type), || {
        // SAFETY: the strings end in NUL and live for the call, and so do the lists, each of which ends in
        // an entry without a name; the other pointers among the parameters are null by default, which
        // stands for "none".
        let status = unsafe { sys::llama_model_quantize(input_c.as_ptr(), output_c.as_ptr(), &raw const params) };
        (status == 0).then_some(())
    })
}

fn given(key: &str, value: &Given) -> Result<sys::llama_model_kv_override> {
    let (tag, value) = match value {
        Given::Integer(number) => {
            (sys::LLAMA_KV_OVERRIDE_TYPE_INT, sys::llama_model_kv_override__bindgen_ty_1 { val_i64: *number })
        }
        Given::Float(number) => {
            (sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT, sys::llama_model_kv_override__bindgen_ty_1 { val_f64: *number })
        }
        Given::Bool(yes) => {
            (sys::LLAMA_KV_OVERRIDE_TYPE_BOOL, sys::llama_model_kv_override__bindgen_ty_1 { val_bool: *yes })
        }
        Given::Text(text) => {
            (sys::LLAMA_KV_OVERRIDE_TYPE_STR, sys::llama_model_kv_override__bindgen_ty_1 { val_str: fixed(text)? })
        }
    };
    Ok(sys::llama_model_kv_override { tag, key: fixed(key)?, __bindgen_anon_1: value })
}

/// A text in room of fixed size, with a NUL after it.
fn fixed(text: &str) -> Result<[c_char; 128]> {
    let mut room = [0; 128];
    if text.len() >= room.len() {
        return Err(Error::Length(format!("`{text}` is too long")));
    }
    for (place, byte) in room.iter_mut().zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    Ok(room)
}
