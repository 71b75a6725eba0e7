//! What config files say of the quantisation: every key that a loader looks for.
//!
//! Loaders learn in two ways what is not quantised: `gptqmodel`, vLLM and `SGLang` from `dynamic`, whose `-:` rules are
//! about such modules; transformers and vLLM from `modules_in_block_to_quantize`, the ends (or parts) of the names of
//! those that are. It knows the loaders' keys; which modules there are it is told.

use std::collections::BTreeSet;

use qhost_folder::Object;
use qhost_linears::Contents;
use qhost_plugin_api::sdk::Result;
use serde_json::json;

use crate::options::Choices;

/// The file that has the same as the key of `config.json`, for loaders that look for it.
pub(crate) const FILE: &str = "quantize_config.json";

/// The object for both; `mixed` are the rules for modules whose bits were chosen by what is lost.
pub(crate) fn quantization(choices: &Choices, contents: &Contents, mixed: &Object, version: &str) -> Result<Object> {
    let settings = choices.settings;
    let format = choices.format.name();
    let mut object = Object::default();
    let keys = [
        ("quant_method", json!("gptq")),
        ("method", json!("gptq")),
        ("bits", json!(settings.bits)),
        ("group_size", json!(settings.group_size_key())),
        ("sym", json!(settings.symmetric)),
        ("desc_act", json!(settings.act_order)),
        ("checkpoint_format", json!(format)),
        ("format", json!(format)),
        ("pack_dtype", json!("int32")),
        ("lm_head", json!(choices.lm_head)),
    ];
    for (key, value) in keys {
        object.set(key, &value)?;
    }
    // What tells of rounding is left out where nothing was rounded.
    let rounds = contents.rounds();
    if rounds {
        object.set("damp_percent", &json!(choices.calibration.damp))?;
        object.set("true_sequential", &json!(true))?;
        object.set("static_groups", &json!(!settings.act_order))?;
    }
    let rules = rules(choices, contents, mixed)?;
    if !rules.is_empty() {
        object.set_object("dynamic", &rules)?;
    }
    if !contents.skipped.is_empty() {
        object.set("modules_in_block_to_quantize", &listed(contents))?;
        object.set("modules_to_not_convert", &skipped_in_all(contents))?;
    }
    let mut meta = json!({"quantizer": [format!("qhost:{version}")]});
    if rounds {
        meta["damp_percent"] = json!(choices.calibration.damp);
        meta["static_groups"] = json!(!settings.act_order);
        meta["true_sequential"] = json!(true);
        meta["act_group_aware"] = json!(!settings.act_order);
    }
    object.set("meta", &meta)?;
    Ok(object)
}

/// Rules for modules whose bits were chosen, the user's, and those that leave out what is not quantised.
fn rules(choices: &Choices, contents: &Contents, mixed: &Object) -> Result<Object> {
    let mut rules = mixed.clone();
    // The first that matches counts: these say what the user's do beside the bits.
    rules.extend(choices.rules.source());
    for name in skipped_in_all(contents) {
        // Whatever comes before: vLLM has its own names for what is around the layers.
        let pattern = format!(r"-:.*\.{}$", name.replace('.', r"\."));
        if !rules.entries().any(|(known, _)| known == pattern) {
            rules.set(&pattern, &json!({}))?;
        }
    }
    Ok(rules)
}

/// The names within a layer of linears that no layer has quantised.
fn skipped_in_all(contents: &Contents) -> Vec<String> {
    let quantised = quantised(contents);
    let skipped: BTreeSet<_> = contents.skipped.iter().map(|name| in_layer(name)).collect();
    skipped.difference(&quantised).map(|name| (*name).to_owned()).collect()
}

/// The names within a layer of linears that some layer has quantised.
fn quantised(contents: &Contents) -> BTreeSet<&str> {
    contents.modules().map(|module| in_layer(&module.name)).collect()
}

/// The quantised modules in lists, those that are quantised at once in one: their names within a layer, or their whole
/// names if not every layer has the same.
fn listed(contents: &Contents) -> Vec<Vec<String>> {
    let quantised = quantised(contents);
    let whole = contents.skipped.iter().any(|name| quantised.contains(in_layer(name)));
    let mut groups: Vec<(_, Vec<String>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for module in contents.modules() {
        let name = if whole { &module.name } else { in_layer(&module.name) };
        if !seen.insert(name) {
            continue;
        }
        let group = (whole.then_some(module.unit), &module.group, module.expert_of_statistics);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, names)) => names.push(name.to_owned()),
            None => groups.push((group, vec![name.to_owned()])),
        }
    }
    groups.into_iter().map(|(_, names)| names).collect()
}

/// What comes after the layer's number in a module's name; the whole name if there is none.
fn in_layer(name: &str) -> &str {
    let mut rest = name;
    while let Some((word, after)) = rest.split_once('.') {
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
            return after;
        }
        rest = after;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_layer_comes_after_the_first_number() {
        assert_eq!(in_layer("model.layers.12.mlp.experts.3.up_proj"), "mlp.experts.3.up_proj");
        assert_eq!(in_layer("transformer.h.0.attn.c_attn"), "attn.c_attn");
        assert_eq!(in_layer("lm_head"), "lm_head");
    }
}
