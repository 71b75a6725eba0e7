//! Where the settings of a folder are: in the config of the model, or in a file of their own.

use qhost_folder::json;
use qhost_plugin_api::sdk::{FileView, Result};
use serde_json::{Map, Value};

/// The config of the model.
pub const CONFIG: &str = "config.json";
/// The key of the settings in the config of the model.
pub const KEY: &str = "quantization_config";

/// The settings as they are written, and the file that has them: the config of the model, or the first that is there of
/// others.
///
/// # Errors
/// Fails with kind `CORRUPT` when one of the files is no JSON.
pub fn settings_in(
    files: &[FileView<'_>],
    others: &[&'static str],
) -> Result<Option<(Map<String, Value>, &'static str)>> {
    let of_config = json(files, CONFIG)?.and_then(|mut config| config.get_mut(KEY).map(Value::take));
    let mut found = of_config.filter(|found| !found.is_null()).map(|settings| (settings, CONFIG));
    for other in others {
        if found.is_none() {
            found = json(files, other)?.map(|settings| (settings, *other));
        }
    }
    Ok(match found {
        Some((Value::Object(settings), file)) => Some((settings, file)),
        _ => None,
    })
}

/// How `AutoRound` says that it packs, which writes folders of several formats under a method of its own; none if settings
/// are not its. What is no whole numbers is told as its type.
#[must_use]
pub fn autoround(written: &Map<String, Value>) -> Option<&str> {
    /// The names of its method, the older one last.
    const METHODS: [&str; 2] = ["auto-round", "intel/auto-round"];
    text(written, "quant_method").filter(|method| METHODS.contains(method))?;
    // Releases before that key named what loads the folder.
    let packing = text(written, "packing_format").or_else(|| text(written, "backend"));
    let other = text(written, "data_type").filter(|kind| *kind != "int");
    Some(other.or(packing).unwrap_or("auto"))
}

/// The text that a key has.
#[must_use]
pub fn text<'a>(written: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    written.get(key).and_then(Value::as_str)
}

/// The truth value that a key has.
#[must_use]
pub fn flag(written: &Map<String, Value>, key: &str) -> Option<bool> {
    written.get(key).and_then(Value::as_bool)
}
