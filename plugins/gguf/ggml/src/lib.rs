//! The block types of GGUF files: how their bytes lie, from weights to blocks as ggml's reference quantiser makes them,
//! and back.
//!
//! It knows blocks and rows; it knows no tensors, no files and no levels.

mod block_type;
pub mod dequantize;
pub mod float;
mod ggml_type;
pub mod layout;
pub mod quantize;

pub use block_type::BlockType;
pub use ggml_type::GgmlType;
