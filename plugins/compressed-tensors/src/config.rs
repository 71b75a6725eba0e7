//! What `config.json` says of the quantisation, as the package `compressed-tensors` writes it.
//!
//! Modules are told by their class, `Linear`, and what of it is not quantised by name (`ignore`). Modules with other
//! settings than most have a group of their own, by their names, which count before the class.

use qhost_folder::Object;
use qhost_linears::{Contents, Module, Settings};
use qhost_plugin_api::sdk::Result;
use serde_json::{Value, json};

use crate::format::FORMAT;

/// How codes lie in words, in the package's word.
pub(crate) const LAYOUT: &str = "pack-quantized";

/// The release of the package whose keys these are, and whose packing.
const VERSION: &str = "0.20.0";

/// The class of linears.
const CLASS: &str = "Linear";

/// The object of `config.json`, whose modules were rounded with calibration or without; `head` is the module of the head.
pub(crate) fn quantization(contents: &Contents, calibrated: bool, head: &str) -> Result<Object> {
    // Columns were put in order within their groups: that is for people, and for nobody who loads it.
    let ordered = calibrated && contents.modules().all(|module| module.taken.is_none());
    let mut groups = Object::default();
    for (number, (settings, modules)) in by_settings(contents).into_iter().enumerate() {
        let names = modules.iter().map(|module| &*module.name);
        let targets: Vec<&str> = if number == 0 {
            // vLLM's class of heads has another name.
            [CLASS].into_iter().chain(names.filter(|name| *name == head)).collect()
        } else {
            names.collect()
        };
        let group = json!({
            "format": LAYOUT,
            "input_activations": null,
            "output_activations": null,
            "targets": targets,
            "weights": weights(settings, ordered),
        });
        groups.set(&format!("group_{number}"), &group)?;
    }
    let mut object = Object::default();
    object.set_object("config_groups", &groups)?;
    let keys = [
        ("format", json!(LAYOUT)),
        ("global_compression_ratio", Value::Null),
        ("ignore", json!(contents.skipped)),
        ("kv_cache_scheme", Value::Null),
        ("quant_method", json!(FORMAT)),
        ("quantization_status", json!("compressed")),
        ("sparsity_config", json!({})),
        ("transform_config", json!({})),
        ("version", json!(VERSION)),
    ];
    keys.into_iter().try_for_each(|(key, value)| object.set(key, &value))?;
    Ok(object)
}

/// How weights are quantised, in the package's words.
fn weights(settings: Settings, ordered: bool) -> Value {
    let mut weights = json!({
        "dynamic": false,
        "group_size": settings.group_size,
        "num_bits": settings.bits,
        "strategy": if settings.group_size.is_some() { "group" } else { "channel" },
        "symmetric": settings.symmetric,
        "type": "int",
    });
    if settings.act_order {
        weights["actorder"] = json!("group");
    } else if ordered {
        weights["actorder"] = json!("weight");
    }
    weights
}

/// Modules by their settings, those of the most weights first.
fn by_settings(contents: &Contents) -> Vec<(Settings, Vec<&Module>)> {
    let mut groups: Vec<(Settings, Vec<&Module>)> = Vec::new();
    for module in contents.modules() {
        match groups.iter_mut().find(|(settings, _)| *settings == module.settings) {
            Some((_, modules)) => modules.push(module),
            None => groups.push((module.settings, vec![module])),
        }
    }
    let size = |(_, modules): &(Settings, Vec<&Module>)| modules.iter().map(|module| module.weights()).sum::<u64>();
    groups.sort_by_key(|group| std::cmp::Reverse(size(group)));
    groups
}
