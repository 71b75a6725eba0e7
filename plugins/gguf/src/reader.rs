//! Telling what is in GGUF files: any version, type and split that llama.cpp reads.
//!
//! It knows the container, the names of levels and how tensors are named; weights are not touched.

use qhost_plugin_api::{
    documents::{Findings, MetadataEntry, Numbers, Origin, Part, Reading, Recognition, Role, RoleKind, StoredTensor},
    sdk::{Failure, FileReader, FileView, Result, json_number, list_entry},
};
use serde_json::Value as Json;

use crate::{
    format::Level,
    header::{self, Described, Header},
    metadata::{Array, Metadata, Value},
    source, verify,
    write::MAGIC,
};
use qhost_ggml::GgmlType;

/// The format's id.
pub(crate) const FORMAT: &str = "gguf";

/// The levels that this plugin does not make: numbers of `general.file_type`, and llama.cpp's names.
const OTHER_LEVELS: [(u32, &str); 17] = [
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (31, "IQ1_M"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
    (41, "Q2_0"),
];

/// Reads and checks files.
pub(crate) struct GgufReader;

impl FileReader for GgufReader {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let named = |name: &str| name.to_ascii_lowercase().ends_with(".gguf");
        let ours = |file: &FileView<'_>| file.bytes.starts_with(&MAGIC) || named(file.name);
        let all = !files.is_empty() && files.iter().all(ours);
        Ok(Recognition::new(all.then(|| FORMAT.to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], most_elements: Option<u64>) -> Result<Reading> {
        let parts = Parts::read(files)?;
        let mut tensors = Vec::new();
        for (index, (file, header)) in (0..).zip(files.iter().zip(&parts.headers)) {
            header.check_places(file.bytes.len() as u64).map_err(|failure| within(file, failure))?;
            tensors.extend(header.tensors.iter().map(|tensor| stored(tensor, index, header.data_start)));
        }
        let mut reading = Reading::new(FORMAT, tensors);
        let first = parts.first();
        reading.version = Some(first.version.to_string());
        reading.architecture = text(&first.metadata, "general.architecture");
        reading.level = level(&first.metadata);
        reading.alignment = Some(first.alignment);
        reading.metadata = first.metadata.iter().map(|(key, value)| entry(key, value, most_elements)).collect();
        reading.warnings = parts.gaps();
        Ok(reading)
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        source::origin(files)
    }

    fn check(&self, files: &[FileView<'_>], loader: Option<&str>) -> Result<Findings> {
        if let Some(other) = loader.filter(|loader| !verify::LOADERS.contains(loader)) {
            return Err(Failure::usage(format!("{other} is not known to load gguf")));
        }
        Ok(Findings::new(verify::check(files, loader)))
    }

    fn numbers(&self, format: &str, encoding: &str, rows: &[u8]) -> Result<Numbers> {
        if format != FORMAT {
            return Err(Failure::unsupported(format!("there is no format {format} here")));
        }
        let Some(ggml_type) = GgmlType::named(encoding) else { return Ok(Numbers::Unknown) };
        let found = ggml_type.first_invalid_block(rows);
        Ok(found.map_or(Numbers::Finite, |block| Numbers::NotFinite(block as u64 * ggml_type.block_elements)))
    }
}

/// Adds the file's name to what a failure is about.
pub(crate) fn within(file: &FileView<'_>, failure: Failure) -> Failure {
    let subject =
        if failure.subject.is_empty() { file.name.to_owned() } else { format!("{}: {}", file.name, failure.subject) };
    failure.about(subject)
}

/// The files of one model: one, or those parts of a split one that are there.
pub(crate) struct Parts {
    pub(crate) headers: Vec<Header>,
    /// The number of parts that the files tell of.
    pub(crate) count: u64,
    /// For each file, which part it is.
    numbers: Vec<u64>,
}

impl Parts {
    /// Parses the front of every file.
    ///
    /// # Errors
    /// Fails, naming the file, when one cannot be read, or when they are no parts of one model.
    pub(crate) fn read(files: &[FileView<'_>]) -> Result<Self> {
        let mut parts = Self { headers: Vec::new(), count: 1, numbers: Vec::new() };
        for (index, file) in files.iter().enumerate() {
            let header = header::parse(file.bytes).map_err(|failure| within(file, failure))?;
            let number = |key| header.metadata.get(key).and_then(Value::as_u64);
            let (count, no) = (number("split.count").unwrap_or(1).max(1), number("split.no").unwrap_or(0));
            if index == 0 {
                parts.count = count;
            }
            if count != parts.count || no >= count || parts.numbers.contains(&no) {
                let failure = Failure::corrupt(format!(
                    "says that it is part {} of {count}, which does not fit the other parts",
                    no.saturating_add(1)
                ));
                return Err(within(file, failure).hint("the parts do not belong together: fetch them again"));
            }
            parts.numbers.push(no);
            parts.headers.push(header);
        }
        if parts.headers.is_empty() {
            return Err(Failure::internal("no file was given"));
        }
        Ok(parts)
    }

    /// The first file's header, which has all the keys.
    pub(crate) fn first(&self) -> &Header {
        &self.headers[0]
    }

    /// Every tensor of every part.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Described> {
        self.headers.iter().flat_map(|header| &header.tensors)
    }

    /// What is missing, in words.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let missing: Vec<_> =
            (0..self.count).filter(|no| !self.numbers.contains(no)).take(8).map(|no| (no + 1).to_string()).collect();
        if missing.is_empty() {
            return self.tensor_gap().into_iter().collect();
        }
        let dots = if self.count - self.numbers.len() as u64 > missing.len() as u64 { ", …" } else { "" };
        vec![format!("of {} parts of the model these are missing: {}{dots}", self.count, missing.join(", "))]
    }

    /// Whether all parts together have the tensors that the first one promises.
    fn tensor_gap(&self) -> Option<String> {
        let promised = self.first().metadata.get("split.tensors.count").and_then(Value::as_u64)?;
        let actual = self.tensors().count() as u64;
        (promised != actual).then(|| format!("the parts have {actual} tensors, and tell of {promised}"))
    }
}

/// The value of a key that holds text.
pub(crate) fn text(metadata: &Metadata, key: &str) -> Option<String> {
    metadata.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn level(metadata: &Metadata) -> Option<String> {
    // llama.cpp sets this bit where it had to guess.
    const GUESSED: u64 = 1024;
    let number = u32::try_from(metadata.get("general.file_type")?.as_u64()? & !GUESSED).ok()?;
    Level::numbered(number)
        .map(|level| level.name)
        .or_else(|| OTHER_LEVELS.iter().find(|(other, _)| *other == number).map(|(_, name)| *name))
        .map(str::to_owned)
}

fn stored(tensor: &Described, file: u32, data_start: u64) -> StoredTensor {
    let shape = tensor.dimensions.iter().rev().copied().collect();
    let mut stored = StoredTensor::new(&*tensor.name, tensor.ggml_type.name, shape);
    // Nobody has looked at where an empty one is said to be.
    let start = if tensor.bytes == 0 { 0 } else { data_start.saturating_add(tensor.offset) };
    stored = stored.at(file, start, tensor.bytes);
    (stored.layer, stored.role) = place(&tensor.name);
    stored
}

/// The layer and the role that a name tells; GGUF's names are those of the roles.
fn place(name: &str) -> (Option<u32>, Option<Role>) {
    let mut layer = None;
    let mut module = name;
    if let Some((number, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        layer = number.parse().ok();
        module = rest;
    }
    let Some((module, parameter)) = module.rsplit_once('.') else { return (layer, None) };
    let part = match parameter {
        "weight" => Part::Weight,
        "bias" => Part::Bias,
        _ => return (layer, None),
    };
    let kind = RoleKind::from(module.to_owned());
    let role = (!matches!(kind, RoleKind::Other(_))).then(|| Role::new(kind, part));
    (layer, role)
}

fn entry(key: &str, value: &Value, most: Option<u64>) -> MetadataEntry {
    let single = |kind: &str, value: Json| MetadataEntry::new(key, kind, value);
    match value {
        Value::U8(value) => single("u8", (*value).into()),
        Value::I8(value) => single("i8", (*value).into()),
        Value::U16(value) => single("u16", (*value).into()),
        Value::I16(value) => single("i16", (*value).into()),
        Value::U32(value) => single("u32", (*value).into()),
        Value::I32(value) => single("i32", (*value).into()),
        Value::F32(value) => single("f32", short(*value)),
        Value::Bool(value) => single("bool", (*value).into()),
        Value::String(value) => single("string", value.as_str().into()),
        Value::U64(value) => single("u64", (*value).into()),
        Value::I64(value) => single("i64", (*value).into()),
        Value::F64(value) => single("f64", json_number(*value)),
        Value::Array(array) => match array {
            Array::U8(values) => list_entry(key, "[u8]", values, most, |value| (*value).into()),
            Array::I8(values) => list_entry(key, "[i8]", values, most, |value| (*value).into()),
            Array::U16(values) => list_entry(key, "[u16]", values, most, |value| (*value).into()),
            Array::I16(values) => list_entry(key, "[i16]", values, most, |value| (*value).into()),
            Array::U32(values) => list_entry(key, "[u32]", values, most, |value| (*value).into()),
            Array::I32(values) => list_entry(key, "[i32]", values, most, |value| (*value).into()),
            Array::F32(values) => list_entry(key, "[f32]", values, most, |value| short(*value)),
            Array::Bool(values) => list_entry(key, "[bool]", values, most, |value| (*value).into()),
            Array::String(values) => list_entry(key, "[string]", values, most, |value| value.as_str().into()),
            Array::U64(values) => list_entry(key, "[u64]", values, most, |value| (*value).into()),
            Array::I64(values) => list_entry(key, "[i64]", values, most, |value| (*value).into()),
            Array::F64(values) => list_entry(key, "[f64]", values, most, |value| json_number(*value)),
        },
    }
}

/// An f32 as the shortest decimal that is read back as the same f32: 1e-5, and not 9.99999974…e-6.
fn short(value: f32) -> Json {
    json_number(format!("{value}").parse().unwrap_or_else(|_| value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::BlockType,
        write::{Unplaced, lay_out},
    };

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        metadata.push("general.file_type", 30_u32).unwrap();
        metadata.push("llama.rms", 1e-5_f32).unwrap();
        metadata.push("odd", f64::NEG_INFINITY).unwrap();
        metadata.push("tokens", (0..100).map(|token| format!("t{token}")).collect::<Vec<_>>()).unwrap();
        metadata
    }

    fn file(metadata: &Metadata, names: &[&str]) -> Vec<u8> {
        let tensor = |name: &&str| Unplaced { name: (*name).into(), shape: vec![2, 32], block_type: BlockType::Q8_0 };
        let layout = lay_out(metadata, names.iter().map(tensor).collect()).unwrap();
        let mut bytes = layout.header;
        bytes.resize(usize::try_from(layout.file_bytes).unwrap(), 0);
        bytes
    }

    fn part(no: u16, count: u16, names: &[&str]) -> Vec<u8> {
        let mut metadata = if no == 0 { metadata() } else { Metadata::new() };
        metadata.push("split.no", no).unwrap();
        metadata.push("split.count", count).unwrap();
        metadata.push("split.tensors.count", 3_i32).unwrap();
        file(&metadata, names)
    }

    #[test]
    fn what_is_in_a_file_is_told_and_long_lists_are_cut() {
        let bytes = file(&metadata(), &["blk.3.attn_q.weight", "blk.3.odd.scale", "token_embd.weight"]);
        let view = [FileView { name: "a.gguf", bytes: &bytes }];
        let reading = GgufReader.open(&view, Some(3)).unwrap();
        assert_eq!((reading.level.as_deref(), reading.architecture.as_deref()), (Some("IQ4_XS"), Some("llama")));
        let entry = |key: &str| reading.metadata.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!((&entry("llama.rms").value, &entry("odd").value), (&Json::from(1e-5), &Json::from("-inf")));
        assert_eq!(
            (&entry("tokens").value, entry("tokens").length),
            (&serde_json::json!(["t0", "t1", "t2"]), Some(100))
        );
        let whole = GgufReader.open(&view, None).unwrap();
        assert_eq!(whole.metadata[4].value.as_array().map(Vec::len), Some(100));
        let tensor = &reading.tensors[0];
        assert_eq!((tensor.layer, &*tensor.shape, tensor.bytes), (Some(3), &[2, 32][..], 68));
        assert_eq!(tensor.role, Some(Role::weight(RoleKind::AttentionQ)));
        assert_eq!((reading.tensors[1].layer, &reading.tensors[1].role), (Some(3), &None));
        assert_eq!(reading.tensors[2].role, Some(Role::weight(RoleKind::TokenEmbedding)));
    }

    #[test]
    fn parts_are_one_model_and_missing_ones_are_told() {
        let parts = [part(0, 3, &["a", "b"]), part(1, 3, &[]), part(2, 3, &["c"])];
        let view = |indexes: &[usize]| {
            let views: Vec<_> = indexes.iter().map(|&i| FileView { name: "part", bytes: &parts[i] }).collect();
            GgufReader.open(&views, None)
        };
        let whole = view(&[0, 1, 2]).unwrap();
        let names: Vec<_> = whole.tensors.iter().map(|tensor| (&*tensor.name, tensor.file)).collect();
        assert_eq!((names, whole.warnings), (vec![("a", 0), ("b", 0), ("c", 2)], vec![]));
        assert!(view(&[0, 2]).unwrap().warnings[0].ends_with("of 3 parts of the model these are missing: 2"));
        assert!(view(&[0, 0]).unwrap_err().message.contains("part 1 of 3"));
        let foreign = part(1, 2, &[]);
        let views = [FileView { name: "x", bytes: &parts[0] }, FileView { name: "y", bytes: &foreign }];
        assert!(GgufReader.open(&views, None).unwrap_err().subject.starts_with('y'));
    }

    #[test]
    fn every_level_has_one_name() {
        for (index, (number, name)) in OTHER_LEVELS.iter().enumerate() {
            assert!(Level::numbered(*number).is_none() && Level::named(name).is_none(), "{name}");
            assert!(OTHER_LEVELS[index + 1..].iter().all(|other| other.0 != *number && other.1 != *name));
        }
    }
}
