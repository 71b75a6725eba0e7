//! The file: what its header says of the tensors, and of the model that it was made from.

use qhost_plugin_api::{
    documents::{Model, SourceTensor},
    sdk::{Failure, FilesHandle, Result},
};
use serde_json::{Value, json};

/// What a file begins with.
pub(crate) const MAGIC: &[u8; 8] = b"FROZEN-1";

/// Small files that are kept in the header.
const KEPT: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

/// A tensor in a file.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) encoding: String,
    pub(crate) shape: Vec<u64>,
    /// From the end of the header on.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Stored {
    pub(crate) fn new(tensor: &SourceTensor, encoding: &str, offset: u64, bytes: u64) -> Self {
        Self { name: tensor.name.clone(), encoding: encoding.into(), shape: tensor.shape.clone(), offset, bytes }
    }

    fn of(value: &Value) -> Option<Self> {
        Some(Self {
            name: value["name"].as_str()?.into(),
            encoding: value["encoding"].as_str()?.into(),
            shape: value["shape"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?,
            offset: value["offset"].as_u64()?,
            bytes: value["bytes"].as_u64()?,
        })
    }
}

/// The header of a file.
pub(crate) struct Header {
    pub(crate) config: Value,
    /// Names and texts.
    pub(crate) companions: Vec<(String, String)>,
    pub(crate) tensors: Vec<Stored>,
}

impl Header {
    pub(crate) fn of(model: &Model, tensors: Vec<Stored>, companions: &FilesHandle) -> Result<Self> {
        let mut kept = Vec::new();
        for name in KEPT {
            kept.extend(companions.read_text(name)?.map(|text| (name.to_owned(), text)));
        }
        Ok(Self { config: model.config.clone(), companions: kept, tensors })
    }

    /// With the magic and its length before it.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let tensor = |tensor: &Stored| {
            json!({"name": tensor.name, "encoding": tensor.encoding, "shape": tensor.shape, "offset": tensor.offset,
                "bytes": tensor.bytes})
        };
        let tensors: Vec<_> = self.tensors.iter().map(tensor).collect();
        let header = json!({"config": self.config, "companions": self.companions, "tensors": tensors});
        let text = serde_json::to_vec(&header).map_err(|error| Failure::internal(error.to_string()))?;
        Ok([&MAGIC[..], &(text.len() as u64).to_le_bytes(), &text].concat())
    }

    /// Reads it; gives where the tensors begin, too.
    pub(crate) fn read(file: &[u8]) -> Result<(Self, u64)> {
        let damaged = || Failure::corrupt("its header cannot be read");
        let length = file.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(damaged)?;
        let start = 16;
        let end = u64::from_le_bytes(*length).checked_add(start).ok_or_else(damaged)?;
        let text = usize::try_from(end).ok().and_then(|end| file.get(16..end)).ok_or_else(damaged)?;
        let header: Value = serde_json::from_slice(text).map_err(|_| damaged())?;
        let tensors = header["tensors"].as_array().ok_or_else(damaged)?;
        let tensors = tensors.iter().map(Stored::of).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let companions = serde_json::from_value(header["companions"].clone()).map_err(|_| damaged())?;
        Ok((Self { config: header["config"].clone(), companions, tensors }, end))
    }
}
