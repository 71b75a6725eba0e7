//! What is in files, as a document and in words.

use std::{collections::HashMap, fmt::Write};

use bytesize::ByteSize;
use indicatif::HumanCount;
use qhost_plugin_api::documents::{MetadataEntry, StoredTensor};
use serde_json::{Value, json};

use super::{
    document,
    screen::{STRONG, WARNING},
    summary::Stored,
};
use crate::{inspect::Inspection, plan::bits_per_weight, text::shown};

/// Columns that a line may take where it can be cut.
const COLUMNS: usize = 80;

/// What is in files, for standard output.
#[must_use]
pub fn inspection_document(inspection: &Inspection) -> Value {
    let reading = &inspection.reading;
    let weights = weights(inspection);
    let bits = |bytes: u64| weights.map(|weights| bits_per_weight(bytes, weights));
    let stored: Vec<_> = reading
        .tensors
        .iter()
        .map(|tensor| Stored {
            name: &tensor.name,
            encoding: &tensor.encoding,
            elements: counted(tensor),
            bytes: tensor.bytes,
            fallback: None,
            instead_of: None,
        })
        .collect();
    json!({
        "schema": "qhost.inspection/1",
        "status": "ok",
        "path": document::text(&inspection.path),
        "format": reading.format,
        "format_version": reading.version,
        "level": reading.level,
        "plugin": inspection.plugin.as_ref().map(|(id, version)| json!({"id": id, "version": version})),
        "architecture": reading.architecture,
        "family": inspection.family,
        "not_understood": inspection.not_understood,
        "quantization_config": inspection.quantization,
        "parameter_count": weights,
        "file_size": inspection.file_bytes(),
        "tensor_bytes": reading.tensor_bytes(),
        "bits_per_weight": bits(inspection.file_bytes()),
        "tensor_bits_per_weight": bits(reading.tensor_bytes()),
        "alignment": reading.alignment,
        "files": inspection.files,
        "encodings": document::encodings(&stored),
        "tensors": reading.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "metadata": reading.metadata.iter().map(metadata).collect::<Vec<_>>(),
        "companions": inspection.companions,
        "warnings": inspection.warnings,
    })
}

/// The number of weights; where a checkpoint packs several into an element, only a plugin can tell it.
fn weights(inspection: &Inspection) -> Option<u64> {
    let known = inspection.plugin.is_some() || inspection.quantization.is_none();
    known.then(|| inspection.reading.weights())
}

/// What bits are told of: weights, and of scales and the like each of them.
fn counted(tensor: &StoredTensor) -> u64 {
    tensor.weights.filter(|weights| *weights > 0).unwrap_or_else(|| tensor.elements())
}

fn tensor(tensor: &StoredTensor) -> Value {
    let mut document = json!({
        "name": tensor.name,
        "encoding": tensor.encoding,
        "shape": tensor.shape,
        "elements": tensor.elements(),
        "bytes": tensor.bytes,
        "file": tensor.file,
        "offset": tensor.offset,
        "role": tensor.role.as_ref().map(ToString::to_string),
        "layer": tensor.layer,
    });
    if let Some(weights) = tensor.weights {
        document::merge(&mut document, json!({"weights": weights}));
    }
    document
}

fn metadata(entry: &MetadataEntry) -> Value {
    let mut document = json!({"key": entry.key, "type": entry.kind, "value": entry.value});
    if let Some(length) = entry.length {
        let told = entry.value.as_array().map_or(0, Vec::len) as u64;
        document::merge(&mut document, json!({"length": length, "truncated": told < length}));
    }
    document
}

/// What is in files, in words; in full, or with like tensors on one line.
#[must_use]
pub fn show_inspection(inspection: &Inspection, full: bool) -> String {
    let reading = &inspection.reading;
    let mut text = format!("{STRONG}{}{STRONG:#}\n", inspection.path.display());
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    let version = reading.version.as_deref().map_or_else(String::new, |version| format!(" version {version}"));
    let level = reading.level.as_deref().map_or_else(String::new, |level| format!(", {level}"));
    row("format", &shown(&format!("{}{version}{level}", reading.format)));
    let architecture = reading.architecture.as_deref().unwrap_or("unknown");
    let family = match inspection.family.as_deref() {
        Some(family) if family != architecture => format!(" (family {family})"),
        Some(_) => String::new(),
        None => " (no family that this qhost knows)".into(),
    };
    row("architecture", &shown(&format!("{architecture}{family}")));
    if let Some(quantization) = &inspection.quantization {
        row("quantised", &shown(&settings(quantization)));
    }
    let tensors = reading.tensors.len();
    let (what, count) =
        weights(inspection).map_or_else(|| ("elements", reading.elements()), |weights| ("weights", weights));
    row(what, &format!("{} in {tensors} tensors", HumanCount(count)));
    row("size", &size(inspection));
    if let Some(alignment) = reading.alignment {
        row("aligned", &format!("to {alignment} bytes"));
    }
    if !inspection.companions.is_empty() {
        let names: Vec<_> = inspection.companions.iter().map(|file| file.name.as_str()).collect();
        row("beside it", &shown(&cut(&crate::text::list(&names), COLUMNS - 15)));
    }
    encodings(&mut text, inspection);
    tensors_table(&mut text, &reading.tensors, full);
    metadata_table(&mut text, &reading.metadata, full);
    let why = inspection.not_understood.as_ref().map(|why| format!("tensors have no roles: {why}"));
    for warning in inspection.warnings.iter().chain(&why) {
        let _ = writeln!(text, "{WARNING}warning:{WARNING:#} {}", shown(warning));
    }
    text
}

fn size(inspection: &Inspection) -> String {
    let (file, tensors) = (inspection.file_bytes(), inspection.reading.tensor_bytes());
    let files =
        if inspection.files.len() == 1 { String::new() } else { format!(" in {} files", inspection.files.len()) };
    let bits = weights(inspection).map_or_else(String::new, |weights| {
        let (with, without) = (bits_per_weight(file, weights), bits_per_weight(tensors, weights));
        format!(", {with:.2} bits per weight ({without:.2} without the header)")
    });
    format!("{}{files}{bits}", ByteSize(file))
}

/// The settings of a `quantization_config` that are no lists.
fn settings(quantization: &Value) -> String {
    let Value::Object(settings) = quantization else { return quantization.to_string() };
    let method = settings.get("quant_method").and_then(Value::as_str).unwrap_or("unknown method").to_owned();
    let plain =
        settings.iter().filter(|(key, value)| *key != "quant_method" && (value.is_number() || value.is_boolean()));
    let plain: Vec<_> = plain.map(|(key, value)| format!("{key} {value}")).collect();
    cut(&format!("{method}: {}", plain.join(", ")), COLUMNS - 15)
}

/// How many tensors, weights and bytes there are of each type, from the most bytes down.
fn encodings(text: &mut String, inspection: &Inspection) {
    let mut sums: Vec<(&str, usize, u64, u64)> = Vec::new();
    for tensor in &inspection.reading.tensors {
        let known = sums.iter().position(|sum| sum.0 == tensor.encoding);
        let index = known.unwrap_or_else(|| {
            sums.push((&tensor.encoding, 0, 0, 0));
            sums.len() - 1
        });
        let sum = &mut sums[index];
        *sum = (sum.0, sum.1 + 1, sum.2.saturating_add(counted(tensor)), sum.3.saturating_add(tensor.bytes));
    }
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.3));
    if sums.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n  {STRONG}{:<9} {:>7} {:>18} {:>10} {:>6}{STRONG:#}",
        "type", "tensors", "elements", "size", "bits"
    );
    for (encoding, tensors, elements, bytes) in sums {
        let _ = writeln!(
            text,
            "  {:<9} {tensors:>7} {:>18} {:>10} {:>6.2}",
            shown(encoding),
            HumanCount(elements).to_string(),
            ByteSize(bytes).to_string(),
            bits_per_weight(bytes, elements),
        );
    }
}

/// Tensors whose names differ in numbers only, and which are stored alike.
struct Alike {
    name: String,
    encoding: String,
    shape: String,
    count: usize,
    bytes: u64,
}

fn tensors_table(text: &mut String, tensors: &[StoredTensor], full: bool) {
    let mut rows: Vec<Alike> = Vec::new();
    let mut known: HashMap<(String, &str, &[u64]), usize> = HashMap::new();
    for tensor in tensors {
        let name = if full { tensor.name.clone() } else { without_numbers(&tensor.name) };
        let index = *known.entry((name.clone(), &tensor.encoding, &tensor.shape)).or_insert_with(|| {
            let shape: Vec<_> = tensor.shape.iter().map(ToString::to_string).collect();
            let shape = if shape.is_empty() { "scalar".into() } else { shape.join("×") };
            rows.push(Alike { name, encoding: tensor.encoding.clone(), shape, count: 0, bytes: 0 });
            rows.len() - 1
        });
        rows[index].count += 1;
        rows[index].bytes = rows[index].bytes.saturating_add(tensor.bytes);
    }
    for row in &mut rows {
        if row.count > 1 {
            row.name = format!("{} ({}×)", row.name, row.count);
        } else if !full && row.name.contains('*') {
            // A group of one has the name that it has.
            let only = tensors
                .iter()
                .find(|tensor| without_numbers(&tensor.name) == row.name && tensor.encoding == row.encoding);
            if let Some(tensor) = only {
                row.name.clone_from(&tensor.name);
            }
        }
        row.name = shown(&row.name).into_owned();
        row.encoding = shown(&row.encoding).into_owned();
    }
    let width = |of: fn(&Alike) -> usize, least: usize| rows.iter().map(of).max().unwrap_or(0).max(least);
    let (name, encoding, shape) = (
        width(|row| row.name.chars().count(), 6),
        width(|row| row.encoding.len(), 4),
        width(|row| row.shape.chars().count(), 5),
    );
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n  {STRONG}{:<name$} {:<encoding$} {:<shape$} {:>9}{STRONG:#}",
        if full { "tensor" } else { "tensors" },
        "type",
        "shape",
        "size"
    );
    for row in &rows {
        let size = ByteSize(row.bytes).to_string();
        let _ = writeln!(text, "  {:<name$} {:<encoding$} {:<shape$} {size:>9}", row.name, row.encoding, row.shape);
    }
}

/// A name with a star for every part that is a number.
fn without_numbers(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
    parts.join(".")
}

fn metadata_table(text: &mut String, metadata: &[MetadataEntry], full: bool) {
    if metadata.is_empty() {
        return;
    }
    let width = metadata.iter().map(|entry| shown(&entry.key).chars().count()).max().unwrap_or(0).clamp(3, 42);
    let _ = writeln!(text, "\n  {STRONG}{:<width$}  {:<8}  value{STRONG:#}", "key", "type");
    for entry in metadata {
        let value = shown(&value(entry)).into_owned();
        let room = COLUMNS.saturating_sub(width.max(shown(&entry.key).chars().count()) + 14).max(16);
        let value = if full { value } else { cut(&value, room) };
        let _ = writeln!(text, "  {:<width$}  {:<8}  {value}", shown(&entry.key), shown(&entry.kind));
    }
}

fn value(entry: &MetadataEntry) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match (&entry.value, entry.length) {
        (Value::Array(first), Some(length)) => {
            let told: Vec<_> = first.iter().map(Value::to_string).collect();
            let more = if (first.len() as u64) < length { ", …" } else { "" };
            format!("{}: {}{more}", HumanCount(length), told.join(", "))
        }
        (value, _) => plain(value),
    }
}

/// The beginning of a text, at most so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_parts_of_a_name_are_numbers() {
        assert_eq!(without_numbers("model.layers.10.experts.3.w1.weight"), "model.layers.*.experts.*.w1.weight");
        assert_eq!(without_numbers("blk.0.attn_q.weight"), "blk.*.attn_q.weight");
        assert_eq!(without_numbers(".."), "..");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "grö…");
    }
}
