//! Files of safetensors: a length, a header in JSON, and the tensors. It knows nothing of what they mean.

use qhost_plugin_api::{
    documents::StoredTensor,
    sdk::{Failure, Result},
    serde_json::{self, Map, Value, json},
};

/// Bytes of the length before the header.
const LENGTH: u64 = 8;

/// The bytes of an element, of the types that this format has.
pub(crate) fn size_of(dtype: &str) -> Option<u64> {
    match dtype {
        "I8" => Some(1),
        "BF16" | "F16" => Some(2),
        "F32" => Some(4),
        _ => None,
    }
}

/// The header of tensors that lie one after the other: names, types, shapes, bytes.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a [u64], u64)>,
) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0_u64;
    for (name, dtype, shape, bytes) in tensors {
        let start = end;
        end = end
            .checked_add(bytes)
            .ok_or_else(|| Failure::unsupported("the model is larger than any file"))?;
        map.insert(
            name.into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut text = Value::Object(map).to_string();
    // Tensors begin at a multiple of 8.
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    Ok([&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat())
}

/// The tensors of a file. Files come from anywhere, so nothing in them is believed.
///
/// # Errors
/// Fails with kind `CORRUPT` where the file is not whole.
pub(crate) fn tensors(file: u32, bytes: &[u8]) -> Result<Vec<StoredTensor>> {
    let damaged =
        |what: &str| Failure::corrupt(what).hint("the file is probably incomplete: fetch it again");
    let length = bytes
        .first_chunk()
        .map(|length| u64::from_le_bytes(*length));
    let start = length
        .and_then(|length| length.checked_add(LENGTH))
        .ok_or_else(|| damaged("it has no header"))?;
    let text = usize::try_from(start)
        .ok()
        .and_then(|start| bytes.get(8..start));
    let text = text.ok_or_else(|| damaged("its header is cut short"))?;
    let header: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| damaged(&format!("its header cannot be read: {error}")))?;
    let mut tensors = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let about = |failure: Failure| failure.about(&**name);
        let tensor = tensor(file, start, name, entry)
            .ok_or_else(|| about(damaged("its entry cannot be read")))?;
        let elements = tensor
            .shape
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        if let Some(size) = size_of(&tensor.encoding)
            && elements.and_then(|elements| elements.checked_mul(size)) != Some(tensor.bytes)
        {
            return Err(about(damaged(
                "it has not as many bytes as its shape takes",
            )));
        }
        if tensor
            .offset
            .checked_add(tensor.bytes)
            .is_none_or(|end| end > bytes.len() as u64)
        {
            return Err(about(damaged("the file ends before it")));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn tensor(file: u32, start: u64, name: &str, entry: &Value) -> Option<StoredTensor> {
    let numbers = |key: &str| {
        entry[key]
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect::<Option<Vec<_>>>()
    };
    let [first, last] = <[u64; 2]>::try_from(numbers("data_offsets")?).ok()?;
    let tensor = StoredTensor::new(name, entry["dtype"].as_str()?, numbers("shape")?);
    Some(tensor.at(file, start.checked_add(first)?, last.checked_sub(first)?))
}
