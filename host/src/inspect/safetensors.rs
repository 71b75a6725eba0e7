//! What is in a checkpoint of safetensors.

use std::collections::HashMap;

use qhost_plugin_api::documents::{MetadataEntry, Reading, Role, SourceFile, StoredTensor};
use serde_json::Value;

use super::Inspection;
use crate::{model, source::Checkpoint};

/// The container's name.
pub const FORMAT: &str = "safetensors";

/// Programs that load folders of it.
pub const LOADERS: [&str; 3] = ["transformers", "vllm", "sglang"];

/// Fills in what a checkpoint tells.
pub(super) fn fill(inspection: &mut Inspection, checkpoint: &Checkpoint) {
    let config = &checkpoint.config;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    inspection.reading = Reading::new(FORMAT, tensors(checkpoint));
    let architecture = word(&config["architectures"][0]).or_else(|| word(&config["model_type"]));
    inspection.reading.architecture = architecture;
    inspection.reading.metadata = notes(checkpoint);
    inspection.quantization = config.get("quantization_config").filter(|found| !found.is_null()).cloned();
    let family = model::find(config["model_type"].as_str(), config["architectures"][0].as_str());
    inspection.family = family.map(|family| family.id.to_owned());
    inspection.companions =
        checkpoint.companions.iter().map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect();
    if config.is_null() {
        // Said already, where there is a folder to have one.
        return;
    }
    match model::understand(checkpoint) {
        Ok(understood) => {
            let units: HashMap<u32, Option<u32>> =
                understood.model.units.iter().map(|unit| (unit.id, unit.layer)).collect();
            let roles = understood.model.tensors.iter().zip(&understood.stored);
            let roles: HashMap<usize, (Role, Option<u32>)> = roles
                .map(|(tensor, stored)| {
                    (stored.tensor, (tensor.role.clone(), units.get(&tensor.unit).copied().flatten()))
                })
                .collect();
            for (index, tensor) in inspection.reading.tensors.iter_mut().enumerate() {
                if let Some((role, layer)) = roles.get(&index) {
                    (tensor.role, tensor.layer) = (Some(role.clone()), *layer);
                }
            }
            inspection.warnings.extend(understood.warnings);
        }
        Err(error) => inspection.not_understood = Some(error.to_string()),
    }
}

fn tensors(checkpoint: &Checkpoint) -> Vec<StoredTensor> {
    let stored = checkpoint.tensors.iter().map(|tensor| {
        let file = u32::try_from(tensor.shard).unwrap_or(u32::MAX);
        StoredTensor::new(&*tensor.name, &*tensor.dtype, tensor.shape.clone()).at(file, tensor.offset, tensor.bytes)
    });
    stored.collect()
}

/// The texts in the headers; those that several files share are told once.
fn notes(checkpoint: &Checkpoint) -> Vec<MetadataEntry> {
    let mut entries: Vec<MetadataEntry> = Vec::new();
    for (key, text) in checkpoint.shards.iter().flat_map(|shard| &shard.notes) {
        let entry = MetadataEntry::new(&**key, "string", text.as_str().into());
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries
}
