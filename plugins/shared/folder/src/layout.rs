//! Which tensor lies where: shards, offsets, headers, index.
//!
//! It knows names, dtypes and shapes; not what they mean.

use std::{cmp::Reverse, fmt::Write as _};

use qhost_plugin_api::sdk::{Failure, Result};

/// The name of the index of a checkpoint that has several shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// What follows the header starts at a multiple of this, as the safetensors library writes it.
const ALIGNMENT: usize = 8;

/// The length of a header's length.
const PREFIX: usize = 8;

/// A header that is longer is refused by the safetensors library.
const LONGEST_HEADER: usize = 100_000_000;

/// A tensor of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// How an element is stored: a safetensors dtype name.
    pub dtype: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Whether it has to lie in the shard of the tensor before it.
    pub follows: bool,
}

impl Tensor {
    /// A tensor that may lie anywhere.
    pub fn new(name: impl Into<String>, dtype: impl Into<String>, shape: Vec<u64>) -> Self {
        Self { name: name.into(), dtype: dtype.into(), shape, follows: false }
    }

    /// The same, in the shard of the tensor before it.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follows = true;
        self
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// Fails for a dtype that safetensors does not have.
    pub fn bytes(&self) -> Result<u64> {
        let bits = self.shape.iter().product::<u64>() * element_bits(&self.dtype).map_err(|f| f.about(&*self.name))?;
        Ok(bits / 8)
    }
}

/// The bits of an element.
fn element_bits(dtype: &str) -> Result<u64> {
    Ok(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "I8" | "U8" | "BOOL" => 8,
        other => {
            return Err(Failure::unsupported(format!(
                "its dtype {other} is none that safetensors files are written with"
            )));
        }
    })
}

/// A file of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// Everything before the data of the tensors.
    pub header: Vec<u8>,
    /// Its length.
    pub bytes: u64,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The index of the shard.
    pub shard: u32,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// The files of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The files, in order.
    pub shards: Vec<Shard>,
    /// Where each tensor lies, in the order in which they were given.
    pub places: Vec<Place>,
    /// The text of [`INDEX`], if there is more than one file.
    pub index: Option<String>,
}

/// Lays out tensors in their order in files of at most `most` bytes of weights, or of one tensor and those that follow
/// it. Within a file those with longer elements come first, so that all are aligned.
///
/// # Errors
/// Fails for a dtype that safetensors does not have, for two tensors of one name, and for a header that no reader takes.
pub fn lay_out(tensors: &[Tensor], most: u64) -> Result<Layout> {
    let bytes = tensors.iter().map(Tensor::bytes).collect::<Result<Vec<_>>>()?;
    let mut names: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::unsupported("the output would have two tensors of this name").about(twice[0]));
    }
    let parts = parts(tensors, &bytes, most);
    let count = parts.len();
    let mut places = vec![Place { shard: 0, offset: 0, bytes: 0 }; tensors.len()];
    let mut shards = Vec::with_capacity(count);
    for (number, mut part) in parts.into_iter().enumerate() {
        part.sort_by_key(|&index| Reverse(element_bits(&tensors[index].dtype).unwrap_or(0)));
        let header = header(part.iter().map(|&index| (&tensors[index], bytes[index])))?;
        let mut end = header.len() as u64;
        for index in part {
            places[index] =
                Place { shard: u32::try_from(number).unwrap_or(u32::MAX), offset: end, bytes: bytes[index] };
            end += bytes[index];
        }
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        shards.push(Shard { name, header, bytes: end });
    }
    let index = (count > 1).then(|| index(tensors, &places, &shards, bytes.iter().sum()));
    Ok(Layout { shards, places, index })
}

/// The tensors of each file.
fn parts(tensors: &[Tensor], bytes: &[u64], most: u64) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = vec![Vec::new()];
    let (mut filled, mut next) = (0_u64, 0);
    while next < tensors.len() {
        let following = tensors[next + 1..].iter().take_while(|tensor| tensor.follows).count();
        let together = next..next + 1 + following;
        let length: u64 = bytes[together.clone()].iter().sum();
        if filled > 0 && filled.saturating_add(length) > most {
            parts.push(Vec::new());
            filled = 0;
        }
        if let Some(part) = parts.last_mut() {
            part.extend(together.clone());
        }
        filled += length;
        next = together.end;
    }
    parts
}

/// The length of the JSON, and the JSON, which is filled up with spaces.
fn header<'a>(tensors: impl Iterator<Item = (&'a Tensor, u64)>) -> Result<Vec<u8>> {
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut end = 0;
    for (tensor, bytes) in tensors {
        let (name, dtype) = (quoted(&tensor.name), quoted(&tensor.dtype));
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        let shape = shape.join(",");
        let start = end;
        end += bytes;
        // Writing into a string cannot fail.
        let _ = write!(text, r#",{name}:{{"dtype":{dtype},"shape":[{shape}],"data_offsets":[{start},{end}]}}"#);
    }
    text.push('}');
    let padded = text.len().next_multiple_of(ALIGNMENT);
    if padded > LONGEST_HEADER {
        return Err(Failure::unsupported(format!(
            "a file's header would have {padded} bytes, and readers take {LONGEST_HEADER}"
        ))
        .hint("smaller files have shorter headers: --plugin-option shard-size=1GB"));
    }
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend(text.as_bytes());
    header.resize(PREFIX + padded, b' ');
    Ok(header)
}

fn index(tensors: &[Tensor], places: &[Place], shards: &[Shard], total: u64) -> String {
    let mut named: Vec<_> = tensors.iter().zip(places).collect();
    named.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let files = named
        .iter()
        .map(|(tensor, place)| format!("    {}: {}", quoted(&tensor.name), quoted(&shards[place.shard as usize].name)));
    let files: Vec<_> = files.collect();
    format!(
        "{{\n  \"metadata\": {{\n    \"total_size\": {total}\n  }},\n  \"weight_map\": {{\n{}\n  }}\n}}\n",
        files.join(",\n")
    )
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn tensors() -> Vec<Tensor> {
        vec![
            Tensor::new("a", "BF16", vec![3]),
            Tensor::new("b.qweight", "I32", vec![2, 4]),
            Tensor::new("b.scales", "F16", vec![1, 4]).following(),
            Tensor::new("c", "F32", vec![]),
            Tensor::new("d\"", "U8", vec![0, 5]),
        ]
    }

    fn parsed(shard: &Shard) -> Value {
        let length = u64::from_le_bytes(*shard.header.first_chunk().unwrap());
        assert_eq!(length + 8, shard.header.len() as u64);
        assert_eq!(shard.header.len() % 8, 0);
        serde_json::from_slice(&shard.header[8..]).unwrap()
    }

    #[test]
    fn one_file_has_every_tensor_aligned_and_without_gaps() {
        let layout = lay_out(&tensors(), 1 << 30).unwrap();
        assert_eq!((layout.shards.len(), layout.index), (1, None));
        assert_eq!(layout.shards[0].name, "model.safetensors");
        let header = parsed(&layout.shards[0]);
        assert_eq!(header["__metadata__"]["format"], "pt");
        let data = layout.shards[0].header.len() as u64;
        let mut taken: Vec<_> = Vec::new();
        for (tensor, place) in tensors().iter().zip(&layout.places) {
            let told = &header[tensor.name.as_str()];
            assert_eq!(told["dtype"], tensor.dtype.as_str());
            assert_eq!(told["data_offsets"][0], place.offset - data);
            assert_eq!(told["data_offsets"][1], place.offset - data + place.bytes);
            let size = element_bits(&tensor.dtype).unwrap() / 8;
            assert_eq!(place.offset % size, 0, "{}", tensor.name);
            taken.push((place.offset, place.bytes));
        }
        taken.sort_unstable();
        let end = taken.iter().fold(data, |end, (offset, bytes)| {
            assert_eq!(end, *offset);
            end + bytes
        });
        assert_eq!(end, layout.shards[0].bytes);
    }

    #[test]
    fn files_are_filled_in_order_and_what_follows_stays_with_what_it_follows() {
        let layout = lay_out(&tensors(), 38).unwrap();
        let shards: Vec<_> = layout.places.iter().map(|place| place.shard).collect();
        assert_eq!(shards, [0, 1, 1, 2, 2]);
        assert_eq!(layout.shards[2].name, "model-00003-of-00003.safetensors");
        let index: Value = serde_json::from_str(&layout.index.unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 6 + 32 + 8 + 4);
        assert_eq!(index["weight_map"]["b.scales"], "model-00002-of-00003.safetensors");
        assert_eq!(index["weight_map"].as_object().unwrap().len(), 5);
    }

    #[test]
    fn two_of_one_name_and_unknown_dtypes_are_refused() {
        let twice = [Tensor::new("a", "F32", vec![1]), Tensor::new("a", "F16", vec![1])];
        assert!(lay_out(&twice, 1).unwrap_err().message.contains("two tensors"));
        assert!(lay_out(&[Tensor::new("a", "F4", vec![1])], 1).is_err());
    }
}
