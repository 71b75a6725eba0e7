//! Hugging Face folders of packed weights: safetensors files and their index, and what `config.json` says of them.
//!
//! It knows no quantiser; formats that are a folder of packed linears share it.

mod check;
mod companions;
mod layout;
mod object;
mod read;
mod shard_size;

pub use check::{check_headers, read_segment};
pub use companions::{CONFIG, companions, not_taken};
pub use layout::{INDEX, Layout, Place, Shard, Tensor, lay_out};
pub use object::Object;
pub use read::{Folder, StoredAt, json};
pub use shard_size::{DEFAULT_SHARD_BYTES, shard_bytes};
