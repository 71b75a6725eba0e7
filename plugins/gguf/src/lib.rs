//! The GGUF format plugin: llama.cpp's files, with the bytes of its reference quantiser.
//!
//! It knows the format's types, mixture rules, tensor names and metadata; it knows no files, no
//! threads and no checkpoint names.

mod dequantize;
mod float;
pub mod format;
mod layout;
pub mod metadata;
pub mod quantize;
pub mod tokenizer;
