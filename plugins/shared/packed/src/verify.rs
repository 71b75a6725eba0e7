//! Holding folders that anybody made against what the format and its loaders demand.
//!
//! Codes are not looked at: any of them is sound. Zero points and orders are small, and are looked at whole; whether
//! scales are finite is looked at row by row, see [`Reader`](crate::Reader).

use qhost_folder::json;
use qhost_plugin_api::{documents::Check, sdk::FileView};
use serde_json::Value;

use crate::{CONFIG, Content, KEY, Packing};

/// The names of files that a tokenizer may be in.
const TOKENIZERS: [&str; 4] = ["tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model"];

/// What was seen, or what is wrong.
pub type Seen = Result<String, String>;

/// What was looked at, as a check.
#[must_use]
pub fn finding(name: &str, seen: Seen) -> Check {
    match seen {
        Ok(detail) => Check::passed(name, detail),
        Err(detail) => Check::failed(name, detail),
    }
}

/// The checks of a folder, in order; those that make no sense after a failed one are left out.
pub(crate) fn check<P: Packing>(files: &[FileView<'_>], loader: Option<&str>) -> Vec<Check> {
    let content = match Content::<P>::read(files) {
        Ok(content) => content,
        Err(failure) => return vec![Check::failed("structure", failure.to_string())],
    };
    let (tensors, linears) = (content.folder.tensors().len(), content.linears.len());
    let mut checks = vec![Check::passed("structure", format!("{tensors} tensors, {linears} packed linears"))];
    checks.extend(P::checks(&content));
    if let Some(loader) = loader {
        checks.push(finding("loader", loadable(&content, files, loader)));
    }
    checks
}

/// Whether a folder has what a program asks for that loads it by its path.
fn loadable<P: Packing>(content: &Content<'_, P>, files: &[FileView<'_>], loader: &str) -> Seen {
    let config = content.config.as_ref().ok_or("there is no config.json")?;
    let architecture = config["architectures"][0].as_str().ok_or("config.json has no `architectures`")?;
    if config.get(KEY).is_none_or(Value::is_null) && loader == "transformers" {
        return Err(format!("{CONFIG} has no `{KEY}`"));
    }
    if !files.iter().any(|file| TOKENIZERS.contains(&file.name)) {
        return Err("there is no tokenizer".into());
    }
    let is_indexed = json(files, "model.safetensors.index.json").is_ok_and(|index| index.is_some());
    if !is_indexed && !files.iter().any(|file| file.name == "model.safetensors") {
        return Err("there is neither model.safetensors nor model.safetensors.index.json".into());
    }
    P::loads(content, loader).map_err(|reason| format!("{loader} refuses it: {reason}"))?;
    let is_scales = |name: &str| name.ends_with(P::ENDINGS.scales);
    let scales = content.folder.tensors().iter().find(|tensor| is_scales(&tensor.name) && tensor.dtype != "F16");
    Ok(match scales.filter(|_| !P::keeps_scales(loader)) {
        Some(scales) => format!("{architecture}; {} is {}, and is read as F16", scales.name, scales.dtype),
        None => format!("{architecture}; {loader} finds what it needs"),
    })
}
