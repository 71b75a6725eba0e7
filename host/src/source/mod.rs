//! What is there: a checkpoint on disk, its tensors, its config and its companion files.
//!
//! It knows file layouts only; what a tensor means is for [`crate::model`].

mod companions;
mod error;
mod files;
mod fingerprint;
mod folder;
mod look;
mod origin;
mod outline;
mod readme;
mod selection;
mod shard;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

pub use companions::TEMPLATE_FOLDER;
pub use error::Error;
pub use files::{ModelFiles, model_files};
pub use fingerprint::{fingerprint, is_unchanged};
pub use folder::{open, shards_in_index};
pub use look::{has_weights, look};
pub use origin::Origin;
pub use outline::{ENOUGH_FOR_MOST_HEADERS, header_end, outline};
pub use readme::readme;
pub use selection::{Selection, Weights};

use crate::stream::MappedFile;

/// A checkpoint folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder, made absolute and free of links.
    pub root: PathBuf,
    /// The folder's name, as given to outputs.
    pub name: String,
    /// The parsed `config.json`.
    pub config: serde_json::Value,
    /// The weight files.
    pub shards: Vec<Shard>,
    /// The tensors, by shard and then by place in the file.
    pub tensors: Vec<StoredTensor>,
    /// Small files that belong to the model, sorted by name.
    pub companions: Vec<CompanionFile>,
    /// What the user should know about the choice of files.
    pub warnings: Vec<String>,
}

impl Checkpoint {
    /// Bytes of weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

/// One weight file, mapped.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The file's name in the folder.
    pub file_name: String,
    /// The texts that its header has beside the tensors (`__metadata__`).
    pub notes: BTreeMap<String, String>,
    /// Its bytes.
    pub mapping: Arc<MappedFile>,
    /// Its length, and when it was last changed, as it was opened.
    pub stamp: (u64, SystemTime),
    /// A digest of its contents, if it is known; it then stands for the file, wherever and since whenever it lies.
    pub digest: Option<String>,
}

/// One tensor in a weight file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// The name in the checkpoint.
    pub name: String,
    /// Index of the shard.
    pub shard: usize,
    /// The safetensors dtype name, such as `BF16`.
    pub dtype: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// First byte in the shard's file.
    pub offset: u64,
    /// Length in bytes; it agrees with shape and dtype.
    pub bytes: u64,
}

/// A small file beside the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompanionFile {
    /// Its name relative to the folder, with `/` between folders.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}
