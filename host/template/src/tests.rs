//! Whole jobs on byte vectors: nothing is loaded, and no file is read or written.

use qhost_plugin_api::{
    documents::Options,
    sdk::testing::{
        TestHost, TestModel,
        conformance::{self, Settings},
    },
    serde_json::{Value, from_slice, json},
};

use crate::{FORMAT, MANIFEST_JSON, TemplateName, int8};

/// Everything that any plugin has to keep to: determinism, memory, cancellation, odd shapes, damaged files, and more.
#[test]
fn it_keeps_to_the_contract() {
    conformance::assert::<TemplateName>(MANIFEST_JSON, &Settings::default());
}

#[test]
fn a_row_is_rounded_to_the_nearest_of_255_values() {
    let row = [0.0, 1.0, -2.0, 0.5, 127.0];
    let mut codes = Vec::new();
    let scale = int8::round(&row, &mut codes);
    assert_eq!(
        (int8::scale(scale), &*codes),
        (1.0, &[0, 1, 254, 1, 127][..])
    );
    let mut back = [0.0; 5];
    int8::widen(&codes, 1.0, &mut back);
    assert_eq!(back, [0.0, 1.0, -2.0, 1.0, 127.0]);
    // A row of zeros stays one.
    assert_eq!(int8::scale(int8::round(&[0.0; 4], &mut codes)), 1.0);
}

#[test]
fn the_folder_says_what_it_is() {
    let mut model = TestModel::llama(1, 64, 96, 100);
    model.companion(
        "config.json",
        r#"{"model_type": "llama", "hidden_size": 64}"#,
    );
    model.companion("tokenizer.json", "{}");
    let made = TestHost::new()
        .connect::<TemplateName>()
        .unwrap()
        .make(&model, FORMAT, Options::default())
        .unwrap();
    let config: Value = from_slice(&made.files["config.json"]).unwrap();
    assert_eq!(config["hidden_size"], 64);
    assert_eq!(
        config["quantization_config"]["quant_method"],
        "compressed-tensors"
    );
    // All other linears are integers.
    assert_eq!(config["quantization_config"]["ignore"], json!(["lm_head"]));
    assert!(made.files.contains_key("tokenizer.json") && made.findings.passed());
    // Seven linears of 64 or 96 inputs lose less than a percent each.
    assert_eq!(made.metrics.len(), 7);
    assert!(
        made.metrics
            .iter()
            .all(|metric| metric.value > 0.0 && metric.value < 0.01),
        "{:?}",
        made.metrics
    );
}
