//! Telling what is in a folder: its linears, the tensors that are not packed, and the settings.

use qhost_folder::{Folder, StoredAt, json};
use qhost_plugin_api::{
    documents::{Findings, MetadataEntry, NamedParameter, Numbers, Origin, Reading, Recognition, StoredTensor},
    sdk::{DType, Failure, FileReader, FileView, Result, first_non_finite, json_number, list_entry, widen},
};
use serde_json::Value;

use super::{
    linear::{CODES, Linear, ORDER, SCALES, ZEROS},
    settings::{self, CONFIG, KEY, Settings},
    verify,
};

/// The format's id.
pub(crate) const FORMAT: &str = "gptq";

/// Reads and checks folders.
pub(crate) struct Reader;

impl FileReader for Reader {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let ours = settings::written(files).is_ok_and(|written| written.is_some());
        Ok(Recognition::new(ours.then(|| FORMAT.to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], most_elements: Option<u64>) -> Result<Reading> {
        let content = Content::read(files)?;
        let mut reading = Reading::new(FORMAT, content.stored());
        reading.version = Some(content.settings.version.name().to_owned());
        reading.architecture = content.architecture();
        reading.level = content.level();
        let entries = content.settings.written.iter();
        reading.metadata = entries.map(|(key, value)| entry(&format!("{KEY}.{key}"), value, most_elements)).collect();
        Ok(reading)
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        let content = Content::read(files)?;
        let mut config = content.config.clone().ok_or_else(|| Failure::corrupt("is not there").about(CONFIG))?;
        if let Value::Object(config) = &mut config {
            config.remove(KEY);
        }
        let mut origin = Origin::new(config);
        origin.parameters = content.parameters();
        Ok(origin)
    }

    fn check(&self, files: &[FileView<'_>], loader: Option<&str>) -> Result<Findings> {
        if let Some(other) = loader.filter(|loader| !verify::LOADERS.contains(loader)) {
            return Err(Failure::usage(format!("{other} is not known to load {FORMAT}")));
        }
        Ok(Findings::new(verify::check(files, loader)))
    }

    fn numbers(&self, format: &str, encoding: &str, rows: &[u8]) -> Result<Numbers> {
        if format != FORMAT {
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
fn is_packed(encoding: &str) -> bool {
    encoding.split_once("bit-").is_some_and(|(bits, _)| bits.parse::<u32>().is_ok())
}

/// A folder that is understood.
pub(crate) struct Content<'a> {
    pub(crate) folder: Folder<'a>,
    pub(crate) settings: Settings,
    pub(crate) config: Option<Value>,
    /// In the order of the files.
    pub(crate) linears: Vec<Linear>,
}

impl<'a> Content<'a> {
    /// Reads settings and headers, and understands every linear.
    ///
    /// # Errors
    /// Fails, naming file or tensor, when anything does not fit.
    pub(crate) fn read(files: &[FileView<'a>]) -> Result<Self> {
        let settings = Settings::read(files)?;
        let folder = Folder::read(files)?;
        let within = |tensor: &StoredAt, failure: Failure| {
            let subject = format!("{}: {}", folder.file_name(tensor.file), failure.subject);
            failure.about(subject)
        };
        let linear = |tensor: &StoredAt| {
            let linear = Linear::of(tensor, |name| folder.tensor(name), &settings);
            linear.map_err(|failure| within(tensor, failure))
        };
        let packed = folder.tensors().iter().filter(|tensor| tensor.name.ends_with(CODES));
        let linears = packed.map(linear).collect::<Result<Vec<_>>>()?;
        for tensor in folder.tensors() {
            let of = [ZEROS, SCALES, ORDER].iter().find_map(|ending| tensor.name.strip_suffix(ending));
            if let Some(name) = of.filter(|name| folder.tensor(&format!("{name}{CODES}")).is_none()) {
                let failure = Failure::corrupt(format!("its tensor {name}{CODES} is not there")).about(name);
                return Err(within(tensor, failure));
            }
        }
        if linears.is_empty() {
            return Err(
                Failure::corrupt("no tensor is packed, and the settings say that some are").about(settings.file)
            );
        }
        Ok(Self { config: json(files, CONFIG)?, folder, settings, linears })
    }

    /// The model's architecture, in the config's own word.
    fn architecture(&self) -> Option<String> {
        let config = self.config.as_ref()?;
        let found = config.get("text_config").and_then(|text| text.get("model_type")).or(config.get("model_type"));
        found.and_then(Value::as_str).map(str::to_owned)
    }

    /// The level that all linears have, if it is one.
    fn level(&self) -> Option<String> {
        let first = self.linears.first()?.encoding();
        self.linears.iter().all(|linear| linear.encoding() == first).then_some(first)
    }

    fn stored(&self) -> Vec<StoredTensor> {
        let mut linears = self.linears.iter().peekable();
        let stored = self.folder.tensors().iter().map(|tensor| {
            let packed = linears.next_if(|linear| tensor.name.strip_suffix(CODES) == Some(linear.name.as_str()));
            let encoding = packed.map_or_else(|| tensor.dtype.clone(), Linear::encoding);
            let mut stored = StoredTensor::new(&*tensor.name, encoding, tensor.shape.clone());
            let around = [ZEROS, SCALES, ORDER].iter().any(|ending| tensor.name.ends_with(ending));
            stored.weights = packed.map(Linear::weights).or_else(|| around.then_some(0));
            stored.at(u32::try_from(tensor.file).unwrap_or(u32::MAX), tensor.offset, tensor.bytes)
        });
        stored.collect()
    }

    /// The parameters of the model, by the checkpoint's names.
    fn parameters(&self) -> Vec<NamedParameter> {
        let linear = |linear: &Linear| {
            let name = format!("{}.weight", linear.name);
            NamedParameter::linear(name, linear.outputs as u64, linear.inputs as u64)
                .stored_in(format!("{}{CODES}", linear.name))
        };
        let plain = self.folder.tensors().iter().filter(|tensor| !is_part(&tensor.name)).map(|tensor| {
            let mut parameter = NamedParameter::new(&*tensor.name, tensor.shape.clone());
            // Some writers give a bias to every linear.
            let of = tensor.name.strip_suffix(".bias").map(|name| format!("{name}{CODES}"));
            let of_linear = of.is_some_and(|name| self.folder.tensor(&name).is_some());
            parameter.does_nothing = of_linear && self.folder.data(tensor).iter().all(|byte| byte << 1 == 0);
            parameter
        });
        self.linears.iter().map(linear).chain(plain).collect()
    }
}

/// Whether a tensor is one of those of a packed linear.
fn is_part(name: &str) -> bool {
    [CODES, ZEROS, SCALES, ORDER].iter().any(|ending| name.ends_with(ending))
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

/// The settings that a reading tells.
///
/// # Errors
/// Fails as [`Settings::read`].
pub(crate) fn settings_of(reading: &Reading) -> Result<Settings> {
    let settings = reading.metadata.iter();
    let settings = settings.filter_map(|entry| {
        let key = entry.key.strip_prefix(KEY)?.strip_prefix('.')?;
        Some((key.to_owned(), entry.value.clone()))
    });
    Settings::parse(settings.collect(), CONFIG)
}

/// The linears and the other tensors that a reading tells.
///
/// # Errors
/// Fails as [`Linear::of`].
pub(crate) fn tensors_of(reading: &Reading) -> Result<(Vec<Linear>, Vec<StoredAt>)> {
    let settings = settings_of(reading)?;
    let stored = |tensor: &StoredTensor| StoredAt {
        name: tensor.name.clone(),
        dtype: if is_packed(&tensor.encoding) { "I32".into() } else { tensor.encoding.clone() },
        shape: tensor.shape.clone(),
        file: tensor.file as usize,
        offset: tensor.offset,
        bytes: tensor.bytes,
    };
    let tensors: std::collections::BTreeMap<String, StoredAt> =
        reading.tensors.iter().map(|tensor| (tensor.name.clone(), stored(tensor))).collect();
    let packed = tensors.values().filter(|tensor| tensor.name.ends_with(CODES));
    let linears = packed.map(|tensor| Linear::of(tensor, |name| tensors.get(name), &settings));
    let linears = linears.collect::<Result<_>>()?;
    Ok((linears, tensors.into_values().filter(|tensor| !is_part(&tensor.name)).collect()))
}
