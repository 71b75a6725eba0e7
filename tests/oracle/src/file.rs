//! Whole files through `llama_model_quantize`.
#![expect(unsafe_code, reason = "llama.cpp takes a struct of pointers")]

use std::{collections::BTreeMap, ffi::CString, path::Path};

use llama_cpp_sys_2 as sys;

use crate::ffi::{c_path, c_text, threads};
use crate::{Result, log};

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
    log::recorded(format!("quantise {} to file type {}", input.display(), recipe.file_type), || {
        // SAFETY: the strings end in NUL and live for the call, and so do the importances, whose list ends
        // in an entry without a name; the other pointers among the parameters are null by default, which
        // stands for "none".
        let status = unsafe { sys::llama_model_quantize(input_c.as_ptr(), output_c.as_ptr(), &raw const params) };
        (status == 0).then_some(())
    })
}
