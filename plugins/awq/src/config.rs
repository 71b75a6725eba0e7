//! What config files say of the quantisation: every key that a loader looks for.
//!
//! What is not quantised vLLM, `SGLang` and transformers learn from `modules_to_not_convert`, parts of names, and
//! `gptqmodel` from `dynamic`, whose `-:` rules are patterns of names, in [`FILE`] where there is one: it is in both.
//! It knows the loaders' keys; which modules there are it is told.

use std::collections::BTreeSet;

use qhost_folder::Object;
use qhost_linears::Contents;
use qhost_plugin_api::sdk::Result;
use serde_json::json;

use crate::options::Choices;

/// `AutoAWQ`'s own file, with its own keys.
pub(crate) const FILE: &str = "quant_config.json";

/// The object of `config.json`.
pub(crate) fn quantization(choices: &Choices, contents: &Contents, version: &str) -> Result<Object> {
    let keys = [
        ("quant_method", json!("awq")),
        ("method", json!("awq")),
        ("bits", json!(choices.settings.bits)),
        ("group_size", json!(choices.settings.group_size_key())),
        // Symmetric codes have zero-points as well, all of them 8: readers without them are few.
        ("zero_point", json!(true)),
        ("version", json!("gemm")),
        ("format", json!("gemm")),
        ("checkpoint_format", json!("gemm")),
        ("pack_dtype", json!("int32")),
        ("desc_act", json!(false)),
        ("lm_head", json!(false)),
        ("modules_to_not_convert", json!(not_converted(contents))),
    ];
    let mut object = Object::default();
    for (key, value) in keys {
        object.set(key, &value)?;
    }
    set_rules(choices, &mut object)?;
    object.set("meta", &json!({"quantizer": [format!("qhost:{version}")]}))?;
    Ok(object)
}

/// Tells `gptqmodel` what is left out.
fn set_rules(choices: &Choices, object: &mut Object) -> Result<()> {
    if choices.left_out.is_empty() {
        return Ok(());
    }
    let mut rules = Object::default();
    for part in &choices.left_out {
        rules.set(&format!("-:.*{}", part.replace('.', r"\.")), &json!({}))?;
    }
    object.set_object("dynamic", &rules)
}

/// The object of [`FILE`].
pub(crate) fn of_autoawq(choices: &Choices, contents: &Contents) -> Result<Object> {
    let keys = [
        ("zero_point", json!(true)),
        ("q_group_size", json!(choices.settings.group_size_key())),
        ("w_bit", json!(choices.settings.bits)),
        ("version", json!("GEMM")),
        ("modules_to_not_convert", json!(not_converted(contents))),
    ];
    let mut object = Object::default();
    keys.into_iter().try_for_each(|(key, value)| object.set(key, &value))?;
    set_rules(choices, &mut object)?;
    Ok(object)
}

/// What is not quantised. Where that is all experts of a layer it is their parent as well: vLLM, which runs them as one,
/// looks for that.
fn not_converted(contents: &Contents) -> Vec<&str> {
    let (all, _) = left_out_experts(contents);
    contents.skipped.iter().map(String::as_str).chain(all).collect()
}

/// The parents of experts that are not quantised: where none of a layer's is, and where others are.
pub(crate) fn left_out_experts(contents: &Contents) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let quantised: BTreeSet<_> = contents.modules().filter_map(|module| experts(&module.name)).collect();
    contents.skipped.iter().filter_map(|name| experts(name)).partition(|parent| !quantised.contains(parent))
}

/// The module that holds an expert's, by the names of checkpoints: `mlp.experts` of `mlp.experts.3.up_proj`.
fn experts(module: &str) -> Option<&str> {
    const EXPERTS: &str = ".experts.";
    let start = module.rfind(EXPERTS)?;
    module.get(..start + EXPERTS.len() - 1)
}

#[cfg(test)]
mod tests {
    use qhost_linears::{Item, Module, Outputs};
    use qhost_plugin_api::documents::InputGroup;

    use super::*;

    fn module(name: &str, settings: qhost_linears::Settings) -> Item {
        Item::Module(Module {
            name: name.into(),
            tensor: 0,
            expert: None,
            outputs: Outputs { first: 0, step: 1, of: 8 },
            rows: 8,
            columns: 8,
            transposed: false,
            unit: 0,
            group: InputGroup::FfnIn,
            expert_of_statistics: Some(0),
            settings,
            taken: None,
            first_segment: 0,
        })
    }

    #[test]
    fn experts_that_are_all_left_out_are_so_by_their_parent_as_well() {
        let settings = Choices::read(&qhost_plugin_api::documents::Options::default()).unwrap().settings;
        let skipped = ["l.0.mlp.gate", "l.0.mlp.experts.0.up_proj", "l.0.mlp.experts.1.up_proj", "l.1.experts.1.up"];
        let contents = Contents {
            items: vec![module("l.1.experts.0.up", settings), module("l.2.experts.0.up", settings)],
            skipped: skipped.map(str::to_owned).to_vec(),
            warnings: Vec::new(),
        };
        assert_eq!(not_converted(&contents), [&skipped[..], &["l.0.mlp.experts"]].concat());
        assert_eq!(left_out_experts(&contents).1.into_iter().collect::<Vec<_>>(), ["l.1.experts"]);
    }
}
