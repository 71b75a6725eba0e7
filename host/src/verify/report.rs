//! Holding files against the report that a run of ours left beside them.

use std::{fs, path::Path};

use qhost_plugin_api::documents::Check;
use serde_json::Value;

use crate::inspect::Inspection;

/// The report's name.
pub const NAME: &str = "qhost-report.json";

/// The name of the report of one of several files that were written into one folder.
#[must_use]
pub fn name_of(file: &Path) -> String {
    format!("{}.{NAME}", file.file_stem().unwrap_or_default().to_string_lossy())
}

/// The check against the report, if there is one and it is about these files.
pub(super) fn check(path: &Path, inspection: &Inspection) -> Option<Check> {
    let beside = if path.is_dir() { path.join(NAME) } else { path.with_file_name(NAME) };
    let report = [path.with_file_name(name_of(path)), beside].iter().find_map(|place| report_about(path, place))?;
    Some(match differences(&report, inspection) {
        None => Check::passed("report", format!("the tensors and the size are those of {NAME}")),
        Some(difference) => Check::failed("report", difference),
    })
}

/// The report at a place, if it is about these files.
fn report_about(path: &Path, place: &Path) -> Option<Value> {
    let report: Value = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
    // The file or folder, or the file in the folder that is opened.
    let about = Path::new(report["output_path"].as_str()?);
    let absolute = std::path::absolute(path).ok()?;
    let is = |told: Option<&Path>| told.and_then(Path::file_name) == absolute.file_name();
    (is(Some(about)) || path.is_dir() && is(about.parent())).then_some(report)
}

/// The first thing that is otherwise than the report says.
fn differences(report: &Value, inspection: &Inspection) -> Option<String> {
    let (told, actual) = (report["file_size"].as_u64()?, inspection.file_bytes());
    if told != actual {
        return Some(format!("{NAME} tells of {told} bytes, there are {actual}"));
    }
    for told in report["tensors"].as_array()? {
        let name = told["name"].as_str().unwrap_or_default();
        let Some(tensor) = inspection.reading.tensors.iter().find(|tensor| tensor.name == name) else {
            return Some(format!("{NAME} tells of {name}, which is not there"));
        };
        let same = told["encoding"] == *tensor.encoding
            && told["bytes"] == tensor.bytes
            && (told["elements"] == tensor.elements() || told["elements"] == tensor.weights());
        if !same {
            return Some(format!(
                "{name} is {} of {} bytes, {NAME} tells of {} of {} bytes",
                tensor.encoding,
                tensor.bytes,
                told["encoding"].as_str().unwrap_or("another type"),
                told["bytes"]
            ));
        }
    }
    None
}
