//! Telling what is in a folder, and checking it: the services by which the host reads files of a format.

use std::marker::PhantomData;

use qhost_plugin_api::{
    documents::{Findings, MetadataEntry, Numbers, Origin, Reading, Recognition},
    sdk::{DType, Failure, FileReader, FileView, Result, first_non_finite, json_number, list_entry, widen},
};
use serde_json::Value;

use crate::{CONFIG, Content, KEY, Packing, verify};

/// Reads and checks folders of a format.
pub struct Reader<P>(PhantomData<P>);

impl<P> Default for Reader<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<P: Packing> FileReader for Reader<P> {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let ours = P::written(files).is_ok_and(|written| written.is_some());
        Ok(Recognition::new(ours.then(|| P::FORMAT.to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], most_elements: Option<u64>) -> Result<Reading> {
        let content = Content::<P>::read(files)?;
        let mut reading = Reading::new(P::FORMAT, content.stored());
        reading.version = Some(content.packing.version().to_owned());
        reading.architecture = content.architecture();
        reading.level = content.level();
        let entries = content.written.iter();
        reading.metadata = entries.map(|(key, value)| entry(&format!("{KEY}.{key}"), value, most_elements)).collect();
        Ok(reading)
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        let content = Content::<P>::read(files)?;
        let mut config = content.config.clone().ok_or_else(|| Failure::corrupt("is not there").about(CONFIG))?;
        if let Value::Object(config) = &mut config {
            config.remove(KEY);
        }
        let mut origin = Origin::new(config);
        origin.parameters = content.parameters();
        Ok(origin)
    }

    fn check(&self, files: &[FileView<'_>], loader: Option<&str>) -> Result<Findings> {
        if let Some(other) = loader.filter(|loader| !P::LOADERS.contains(loader)) {
            return Err(Failure::usage(format!("{other} is not known to load {}", P::FORMAT)));
        }
        Ok(Findings::new(verify::check::<P>(files, loader)))
    }

    fn numbers(&self, format: &str, encoding: &str, rows: &[u8]) -> Result<Numbers> {
        if format != P::FORMAT {
            return Err(Failure::unsupported(format!("there is no format {format} here")));
        }
        let (dtype, size) = match encoding {
            "F32" => (DType::F32, 4),
            "F16" => (DType::F16, 2),
            "BF16" => (DType::BF16, 2),
            _ if is_packed(encoding) => return Ok(Numbers::Finite),
            "I8" | "U8" | "I16" | "U16" | "I32" | "U32" | "I64" | "U64" | "BOOL" => return Ok(Numbers::Finite),
            _ => return Ok(Numbers::Unknown),
        };
        let mut floats = [0.0; 1024];
        for (piece, bytes) in rows.chunks(1024 * size).enumerate() {
            let floats = &mut floats[..bytes.len() / size];
            widen(dtype, bytes, floats)?;
            if let Some(element) = first_non_finite(floats) {
                return Ok(Numbers::NotFinite((piece * 1024 + element) as u64));
            }
        }
        Ok(Numbers::Finite)
    }
}

/// Whether an encoding is that of codes.
pub(crate) fn is_packed(encoding: &str) -> bool {
    encoding.split_once("bit-").is_some_and(|(bits, _)| bits.parse::<u32>().is_ok())
}

/// A setting as metadata.
fn entry(key: &str, value: &Value, most: Option<u64>) -> MetadataEntry {
    let kind = match value {
        Value::Array(values) => return list_entry(key, "array", values, most, Clone::clone),
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => {
            return MetadataEntry::new(key, "number", json_number(number.as_f64().unwrap_or(f64::NAN)));
        }
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Object(_) => "object",
    };
    MetadataEntry::new(key, kind, value.clone())
}
