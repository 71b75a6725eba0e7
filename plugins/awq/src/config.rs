//! What config files say of the quantisation: every key that a loader looks for.
//!
//! What is not quantised vLLM, `SGLang` and transformers learn from `modules_to_not_convert`, parts of names, and
//! `gptqmodel` from `dynamic`, whose `-:` rules are patterns of names, in [`FILE`] where there is one: it is in both.
//! It knows the loaders' keys; which modules there are it is told.

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
        ("modules_to_not_convert", json!(contents.skipped)),
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
        ("modules_to_not_convert", json!(contents.skipped)),
    ];
    let mut object = Object::default();
    keys.into_iter().try_for_each(|(key, value)| object.set(key, &value))?;
    set_rules(choices, &mut object)?;
    Ok(object)
}
