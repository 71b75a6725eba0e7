//! What a GGUF file tells of the checkpoint that it was made from: config, tokenizer and which tensors there are.
//!
//! It knows the keys of GGUF and of transformers; weights are for [`crate::decode`].

mod config;
mod facts;
mod generation;
mod rope;
mod tokenizer;

use qhost_plugin_api::{
    documents::{Origin, Part, PlacedRole, Role, TextFile},
    sdk::{FileView, Result},
};
use serde_json::Value as Json;

use crate::{
    families,
    reader::{Parts, within},
};
use facts::Facts;

/// Reads what the files tell.
///
/// # Errors
/// Fails with kind `CORRUPT` when they are damaged, and with `UNSUPPORTED` for an architecture that is not known here.
pub(crate) fn origin(files: &[FileView<'_>]) -> Result<Origin> {
    let parts = Parts::read(files)?;
    for (file, header) in files.iter().zip(&parts.headers) {
        header.check_places(file.bytes.len() as u64).map_err(|failure| within(file, failure))?;
    }
    let facts = Facts::new(&parts, files)?;
    let mut origin = config::of(&facts).map(|(config, warnings)| {
        let mut origin = Origin::new(config);
        origin.warnings = warnings;
        origin
    })?;
    origin.name = facts.text("general.name").map(str::to_owned);
    origin.present = present(&facts);
    let mut ids = tokenizer::ids(facts.metadata);
    if let Json::Object(config) = &mut origin.config {
        config.extend(ids.clone());
    }
    if let Some(tokenizer) = tokenizer::of(facts.metadata, &mut origin.warnings)? {
        let mut file = |name: &str, value: &Json| origin.companions.push(TextFile::new(name, value.to_string()));
        file("tokenizer.json", &tokenizer.json);
        file("tokenizer_config.json", &tokenizer.config);
        if let [_, _, ..] = tokenizer.ends.as_slice() {
            ids.insert("eos_token_id".into(), tokenizer.ends.into());
        }
    }
    ids.retain(|_, id| !id.is_null());
    ids.extend(generation::sampling(facts.metadata));
    if !ids.is_empty() {
        origin.companions.push(TextFile::new("generation_config.json", Json::Object(ids).to_string()));
    }
    origin.companions.push(TextFile::new("config.json", origin.config.to_string()));
    Ok(origin)
}

/// The roles of the tensors that are there.
fn present(facts: &Facts<'_>) -> Vec<PlacedRole> {
    let mut present = Vec::new();
    for name in facts.names() {
        let (layer, module) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => (layer.parse().ok(), rest),
            None => (None, name),
        };
        for part in [Part::Weight, Part::Bias] {
            let kinds = families::roles(facts.family, module, part);
            present.extend(kinds.map(|kind| PlacedRole::new(Role::new(kind, part), layer)));
        }
    }
    present
}
