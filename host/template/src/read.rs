//! Folders as something to look at, to verify and to take weights from. All of it is pure: bytes in, answers out.

use qhost_plugin_api::{
    documents::{
        Check, Findings, Model, NamedParameter, Numbers, OpenRequest, Origin, Reading, Recognition,
        StoredTensor, TextFile,
    },
    sdk::{DType, Failure, FileReader, FileView, Result, RowDecoder, first_non_finite, widen},
    serde_json::{self, Map, Value},
};

use crate::{FORMAT, LEVEL, int8, plan::CONFIG, stored};

/// Reads folders: the host passes whole files, those with weights first.
pub(crate) struct Reader;

/// The end of the name of a weight's scales, after that of the weight.
const SCALE: &str = "_scale";

impl FileReader for Reader {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let config = config(files).unwrap_or_default();
        let is_one = config
            .get("quantization_config")
            .is_some_and(|of| of["format"] == "int-quantized");
        Ok(Recognition::new(is_one.then(|| FORMAT.to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], _most_elements: Option<u64>) -> Result<Reading> {
        let mut reading = Reading::new(FORMAT, tensors(files)?);
        reading.level = Some(LEVEL.into());
        reading.architecture = config(files)?
            .get("model_type")
            .and_then(Value::as_str)
            .map(Into::into);
        Ok(reading)
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        let tensors = tensors(files)?;
        // What follows is of the weights as floats.
        let mut config = config(files)?;
        config.remove("quantization_config");
        let text = Value::Object(config.clone()).to_string();
        let mut origin = Origin::new(Value::Object(config));
        origin.companions.push(TextFile::new(CONFIG, text));
        let small = files
            .iter()
            .filter(|file| !is_weights(file.name) && file.name != CONFIG);
        let texts = small.filter_map(|file| {
            Some(TextFile::new(
                file.name,
                std::str::from_utf8(file.bytes).ok()?,
            ))
        });
        origin
            .companions
            .extend(texts.filter(|file| !file.name.ends_with(".index.json")));
        // They keep the checkpoint's own names, from which the host knows their roles.
        let parameters = tensors
            .iter()
            .filter(|tensor| !tensor.name.ends_with(SCALE));
        origin.parameters = parameters
            .map(|tensor| NamedParameter::new(&*tensor.name, tensor.shape.clone()))
            .collect();
        Ok(origin)
    }

    fn check(&self, files: &[FileView<'_>], _loader: Option<&str>) -> Result<Findings> {
        // What cannot be read at all is refused by this.
        let tensors = tensors(files)?;
        let lonely = tensors
            .iter()
            .find(|tensor| tensor.encoding == "I8" && scales(&tensors, tensor).is_none());
        Ok(Findings::new(vec![match lonely {
            None => Check::passed(
                "structure",
                format!("{} tensors, integers with their scales", tensors.len()),
            ),
            Some(tensor) => Check::failed(
                "structure",
                format!("{} has no scale for each row", tensor.name),
            ),
        }]))
    }

    fn numbers(&self, _format: &str, encoding: &str, rows: &[u8]) -> Result<Numbers> {
        let Some(dtype) = float(encoding) else {
            return Ok(if encoding == "I8" {
                Numbers::Finite
            } else {
                Numbers::Unknown
            });
        };
        let size = if dtype == DType::F32 { 4 } else { 2 };
        let mut floats = vec![0.0; rows.len() / size];
        widen(dtype, rows, &mut floats)?;
        Ok(first_non_finite(&floats)
            .map_or(Numbers::Finite, |place| Numbers::NotFinite(place as u64)))
    }
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

fn config(files: &[FileView<'_>]) -> Result<Map<String, Value>> {
    let file = files.iter().find(|file| file.name == CONFIG);
    let file = file.ok_or_else(|| Failure::corrupt("the folder has no such file").about(CONFIG))?;
    serde_json::from_slice(file.bytes)
        .map_err(|error| Failure::corrupt(format!("not JSON: {error}")).about(CONFIG))
}

/// All tensors of all files.
fn tensors(files: &[FileView<'_>]) -> Result<Vec<StoredTensor>> {
    let mut all = Vec::new();
    for (index, file) in (0..).zip(files).filter(|(_, file)| is_weights(file.name)) {
        let of_file = stored::tensors(index, file.bytes);
        all.extend(of_file.map_err(|failure| {
            if failure.subject.is_empty() {
                failure.about(file.name)
            } else {
                failure
            }
        })?);
    }
    for tensor in &mut all {
        // Scales are no weights of the model.
        tensor.weights = tensor.name.ends_with(SCALE).then_some(0);
    }
    Ok(all)
}

/// The scales of a weight: one for each row, in bf16.
fn scales<'a>(tensors: &'a [StoredTensor], weight: &StoredTensor) -> Option<&'a StoredTensor> {
    let name = format!("{}{SCALE}", weight.name);
    let found = tensors.iter().find(|tensor| tensor.name == name);
    found.filter(|scales| scales.encoding == "BF16" && scales.elements() == weight.rows())
}

fn float(encoding: &str) -> Option<DType> {
    match encoding {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}

/// Gives the weights of the tensors of a model.
pub(crate) struct Decoder {
    /// For each tensor of the model where it is, and where its scales are if it has some.
    tensors: Vec<(StoredTensor, Option<StoredTensor>)>,
}

impl Decoder {
    pub(crate) fn of(request: OpenRequest) -> Result<Self> {
        let reading = request
            .existing
            .ok_or_else(|| Failure::internal("there are no files to decode"))?;
        let Model { tensors, .. } = request.model;
        let found =
            tensors.iter().map(|tensor| {
                let missing = || Failure::corrupt("it is not in the files").about(&*tensor.name);
                let stored = reading
                    .tensors
                    .iter()
                    .find(|stored| stored.name == tensor.name)
                    .ok_or_else(missing)?;
                if stored.shape != tensor.shape {
                    let wrong = format!(
                        "has the shape {:?}, and {:?} is needed",
                        stored.shape, tensor.shape
                    );
                    return Err(Failure::corrupt(wrong).about(&*tensor.name));
                }
                let scales = scales(&reading.tensors, stored);
                match (&*stored.encoding, scales) {
                    ("I8", None) => Err(Failure::unsupported(
                        "has not one scale in bf16 for each row",
                    )
                    .about(&*tensor.name)),
                    ("I8", scales) => Ok((stored.clone(), scales.cloned())),
                    (encoding, _) if float(encoding).is_some() => Ok((stored.clone(), None)),
                    (encoding, _) => Err(Failure::unsupported(format!("is stored as {encoding}"))
                        .about(&*tensor.name)),
                }
            });
        Ok(Self {
            tensors: found.collect::<Result<_>>()?,
        })
    }
}

/// Bytes of rows of a tensor.
fn rows_of<'a>(
    files: &[&'a [u8]],
    stored: &StoredTensor,
    first: u64,
    rows: u64,
) -> Result<&'a [u8]> {
    let lost = || Failure::corrupt("these rows are not in the files").about(&*stored.name);
    let row = stored.bytes.checked_div(stored.rows()).unwrap_or(0);
    let start = first
        .checked_mul(row)
        .and_then(|rows| stored.offset.checked_add(rows));
    let range = start.and_then(|start| usize::try_from(start).ok());
    let range = range.zip(
        rows.checked_mul(row)
            .and_then(|length| usize::try_from(length).ok()),
    );
    let file = files.get(stored.file as usize).ok_or_else(lost)?;
    range
        .and_then(|(start, length)| file.get(start..)?.get(..length))
        .ok_or_else(lost)
}

impl RowDecoder for Decoder {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let unknown = || Failure::internal(format!("there is no tensor {tensor}"));
        let (stored, scales) = self.tensors.get(tensor as usize).ok_or_else(unknown)?;
        let width = usize::try_from(stored.shape.last().copied().unwrap_or(1))
            .unwrap_or(usize::MAX)
            .max(1);
        let rows = (out.len() / width) as u64;
        let bytes = rows_of(files, stored, first_row, rows)?;
        let Some(scales) = scales else {
            return widen(float(&stored.encoding).ok_or_else(unknown)?, bytes, out);
        };
        let scales = rows_of(files, scales, first_row, rows)?.as_chunks::<2>().0;
        for ((codes, scale), out) in bytes.chunks(width).zip(scales).zip(out.chunks_mut(width)) {
            int8::widen(codes, int8::scale(*scale), out);
        }
        Ok(())
    }
}
