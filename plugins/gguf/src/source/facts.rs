//! Typed access to what the front of a GGUF file says, by the architecture's own keys.
//!
//! It knows no key's meaning.

use qhost_plugin_api::sdk::{Failure, FileView, Result};

use crate::{
    families::{self, Family},
    header::Described,
    metadata::{Array, Metadata, Value},
    reader::{Parts, text},
};

/// What the files say.
pub(super) struct Facts<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'static str,
    /// How the architecture's tensors are named; that of the first family among those that share it.
    pub(super) family: &'static Family,
    parts: &'a Parts,
    files: &'a [FileView<'a>],
}

impl<'a> Facts<'a> {
    pub(super) fn new(parts: &'a Parts, files: &'a [FileView<'a>]) -> Result<Self> {
        let metadata = &parts.first().metadata;
        let Some(name) = text(metadata, "general.architecture") else {
            return Err(Failure::corrupt("the file has no `general.architecture`").about(files[0].name));
        };
        let family = families::of_architecture(&name).ok_or_else(|| {
            Failure::unsupported(format!("the architecture {name} is not read as a source")).about(files[0].name)
        })?;
        Ok(Self { metadata, architecture: family.architecture, family, parts, files })
    }

    /// The value of a key of the architecture.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    /// A count, if it is there; where it is a list with a number for each layer, these have to be the same.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>> {
        let bad = || Failure::corrupt(format!("`{}.{key}` is not a count", self.architecture));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let counts: Vec<u64> = match list {
                    Array::U32(list) => list.iter().map(|count| u64::from(*count)).collect(),
                    Array::I32(list) => {
                        list.iter().map(|count| u64::try_from(*count).map_err(|_| bad())).collect::<Result<_>>()?
                    }
                    _ => return Err(bad()),
                };
                match counts.split_first() {
                    Some((first, rest)) if rest.iter().all(|count| count == first) => Ok(Some(*first)),
                    Some(_) => Err(Failure::unsupported(format!(
                        "`{}.{key}` differs from layer to layer, which is not read",
                        self.architecture
                    ))),
                    None => Err(bad()),
                }
            }
            Some(value) => value.as_u64().map(Some).ok_or_else(bad),
        }
    }

    /// A count that has to be there.
    pub(super) fn needed(&self, key: &str) -> Result<u64> {
        self.count(key)?.ok_or_else(|| Failure::corrupt(format!("the file has no `{}.{key}`", self.architecture)))
    }

    /// A number, as the shortest decimal that is the same f32.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::F32(value)) => decimal(*value),
            Some(Value::F64(value)) => *value,
            Some(_) => f64::NAN,
        };
        if found.is_finite() {
            return Ok(Some(found));
        }
        Err(Failure::corrupt(format!("`{}.{key}` is not a number", self.architecture)))
    }

    /// A truth.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// A text, by its whole key.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// All tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &'a Described> {
        self.parts.tensors()
    }

    /// The names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors().map(|tensor| tensor.name.as_str())
    }

    /// A tensor.
    pub(super) fn tensor(&self, name: &str) -> Option<&'a Described> {
        self.parts.tensors().find(|tensor| tensor.name == name)
    }

    /// Whether a tensor is in any layer.
    pub(super) fn in_layers(&self, module: &str) -> bool {
        self.names().any(|name| {
            name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).is_some_and(|(_, rest)| rest == module)
        })
    }

    /// The numbers of a tensor of the type F32.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        for (header, file) in self.parts.headers.iter().zip(self.files) {
            let Some(tensor) = header.tensors.iter().find(|tensor| tensor.name == name) else { continue };
            let start = header.data_start.checked_add(tensor.offset).and_then(|start| usize::try_from(start).ok());
            let end = start.zip(usize::try_from(tensor.bytes).ok()).and_then(|(start, bytes)| start.checked_add(bytes));
            let bytes = start.zip(end).and_then(|(start, end)| file.bytes.get(start..end));
            let numbers = bytes
                .filter(|_| tensor.ggml_type.name == "F32")
                .map(|bytes| bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>());
            let numbers = numbers.filter(|numbers| numbers.iter().all(|number| number.is_finite() && *number > 0.0));
            return numbers.map(Some).ok_or_else(|| Failure::corrupt("it holds no factors").about(name));
        }
        Ok(None)
    }
}

/// An f32 as the shortest decimal that is read back as the same f32: 1e-5, and not 9.99999974…e-6.
pub(super) fn decimal(value: f32) -> f64 {
    format!("{value}").parse().unwrap_or_else(|_| value.into())
}
