//! Hugging Face folders of packed weights: safetensors files and their index, and what `config.json` says of them.
//!
//! It knows no quantiser; formats that are a folder of packed linears share it.

mod read;

pub use read::{Folder, StoredAt, json};
