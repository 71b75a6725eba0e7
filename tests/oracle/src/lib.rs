//! llama.cpp behind a small safe interface, as the judge of the GGUF plugin's output.
//!
//! It quantises and dequantises with ggml's reference functions, runs `llama_model_quantize` over
//! whole files, reads GGUF files, tokenises, and computes logits, perplexity and
//! divergence on the CPU. It knows
//! nothing of the plugin that is judged: types and levels are llama.cpp's own numbers.
//!
//! llama.cpp is the version vendored by the crate `llama-cpp-sys-2`. As long as no `target-cpu` is
//! asked for, that builds the quantisers for plain x86-64, and only then they give the bytes of other
//! such builds: fused multiply-adds change them. What computes logits is built with AVX2 and needs
//! it. Building takes cmake, a C++ compiler, libclang and some minutes.

mod divergence;
mod error;
mod ffi;
mod file;
mod gguf;
mod kernels;
mod levels;
mod log;
mod model;
mod perplexity;

pub use divergence::Divergence;
pub use error::{Error, Result};
pub use file::{Given, Recipe, quantize_file};
pub use gguf::{Gguf, TensorInfo, Value};
pub use kernels::{
    TypeInfo, dequantize, dequantize_into, file_type_name, quantize_chunk, quantize_chunk_into,
    quantize_chunk_weighted, row_size, type_info, validate_row_data,
};
pub use levels::{LEVELS, Level};
pub use model::{Logits, Model};
pub use perplexity::{Perplexity, Scored};
