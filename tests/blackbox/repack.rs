//! Codes of packed folders in other packed formats: what is exact is so bit for bit, and comes back as the same bytes; what
//! is not is told, and done with calibration.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{command::Qhost, fixture};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{packed, quantised};

/// A conversion into a folder of its own; the document, and the folder that was made.
pub(crate) fn converted(source: &Path, format: &str, place: &Path, arguments: &[&str]) -> (Value, PathBuf) {
    let command = Qhost::new(["convert", "--format", format, "-o"]).arg(place.join(format)).arg(source);
    let told = command.args(arguments.iter().copied()).json();
    let output = PathBuf::from(told["output_path"].as_str().unwrap());
    (told, output)
}

/// The numbers that a folder stands for, by name.
pub(crate) fn weights(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let source = quantised::open(folder).unwrap();
    let bits = |(id, rows): (u32, u64)| source.rows(id, 0, rows).unwrap().iter().map(|w| w.to_bits()).collect();
    let tensors = (0..).zip(&source.model.tensors);
    tensors.map(|(id, tensor)| (tensor.name.clone(), bits((id, tensor.rows())))).collect()
}

/// The bytes of all tensors, by name.
pub(crate) fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter();
    tensors.map(|(name, tensor)| (name, (tensor.shape().to_vec(), tensor.data().to_vec()))).collect()
}

fn settings(folder: &Path) -> Value {
    packed::told(&folder.join("config.json"))["quantization_config"].take()
}

/// Whatever a target holds is taken over without a calibration, and stands for the very same numbers.
pub(crate) fn taken_over(cases: &[(&str, &str, &[&str], Value)]) {
    for (source, format, arguments, expected) in cases {
        let place = tempfile::tempdir().unwrap();
        let (told, output) = converted(&fixture(source), format, place.path(), arguments);
        assert_eq!(told["conversion"]["fidelity"], "exact", "{source} {format}: {told}");
        let settings = settings(&output);
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(settings[key], *value, "{source} {format}: {settings}");
        }
        // Nothing was calibrated, and nothing says so.
        let text = settings.to_string();
        assert!(!text.contains("damp") && !text.contains("true_sequential"), "{source} {format}: {text}");
        let (before, after) = (weights(&fixture(source)), weights(&output));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{source} {format}");
        for (name, numbers) in before {
            // A difference of nothing is a zero of either sign.
            let plus = |bits: &u32| if *bits == 0x8000_0000 { 0 } else { *bits };
            let same = numbers.iter().map(plus).eq(after[&name].iter().map(plus));
            assert!(same, "{source} {format}: {name}");
        }
        assert_eq!(Qhost::new(["verify"]).arg(&output).json()["status"], "ok", "{source} {format}");
    }
}

#[test]
fn gptq_s_codes_are_held_by_awq() {
    taken_over(&[
        ("gptq/b4", "awq", &[], json!({"bits": 4, "group_size": 32})),
        ("gptq/b4v2", "awq", &[], json!({"bits": 4, "group_size": 32})),
        // With zero points of 0, which version 1 stores as −1.
        ("gptq/b4zero", "awq", &[], json!({"bits": 4, "group_size": 32})),
        // Two bits are held in four.
        ("gptq/autoround2", "awq", &[], json!({"bits": 4, "group_size": 32})),
    ]);
}

#[test]
fn gptq_s_codes_are_held_by_gptq() {
    taken_over(&[
        ("gptq/b4", "gptq", &["--plugin-option", "checkpoint-format=gptq_v2"], json!({"checkpoint_format": "gptq_v2"})),
        ("gptq/b4order", "gptq", &[], json!({"desc_act": true, "sym": true, "checkpoint_format": "gptq"})),
        // What the source has left as floats stays so, and groups of 16 are its own.
        ("gptq/mixed", "gptq", &[], json!({"bits": 4, "group_size": 32})),
        // 3, 5 and 8 bits, and one linear left out; 3 to 7 bits in planes.
        ("gptq/autoround", "gptq", &[], json!({"bits": 4, "group_size": 32, "sym": true})),
        ("gptq/planar", "gptq", &[], json!({"bits": 8, "sym": false, "checkpoint_format": "gptq_v2"})),
    ]);
}

#[test]
fn awq_s_codes_are_held_by_gptq() {
    taken_over(&[
        ("awq/asym", "gptq", &[], json!({"sym": false, "checkpoint_format": "gptq_v2"})),
        ("awq/gemv", "gptq", &[], json!({"sym": false, "group_size": 32})),
        ("awq/sym", "gptq", &[], json!({"sym": true, "checkpoint_format": "gptq"})),
        // Whole rows are held by groups that divide them, where these are asked for.
        ("awq/row", "gptq", &["--bits", "4", "--group-size", "32", "--asym"], json!({"group_size": 32, "sym": false})),
    ]);
}

#[test]
fn there_and_back_gives_the_same_bytes() {
    for (source, there, back) in [
        ("gptq/b4", "awq", "gptq"),
        ("gptq/b4v2", "awq", "gptq"),
        ("awq/asym", "gptq", "awq"),
        ("awq/row", "gptq", "awq"),
        ("gptq/b4order", "gptq", "gptq"),
        ("gptq/b8row", "gptq", "gptq"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (_, first) = converted(&fixture(source), there, &place.path().join("there"), &[]);
        let (_, second) = converted(&first, back, &place.path().join("back"), &[]);
        let (before, after) = (tensors(&fixture(source)), tensors(&second));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{source}");
        for (name, tensor) in before {
            assert!(tensor == after[&name], "{source}: {name}");
        }
    }
    // The versions of the format and back.
    let place = tempfile::tempdir().unwrap();
    let version = |name: &str| format!("checkpoint-format={name}");
    let (two, one) = (version("gptq_v2"), version("gptq"));
    let (_, second) = converted(&fixture("gptq/b4"), "gptq", &place.path().join("2"), &["--plugin-option", &two]);
    let (_, first) = converted(&second, "gptq", &place.path().join("1"), &["--plugin-option", &one]);
    assert!(tensors(&fixture("gptq/b4")) == tensors(&first));
    assert!(tensors(&fixture("gptq/b4")) != tensors(&second));
}

/// Version 1 would store a zero point of 0 as −1, and take from its neighbour.
#[test]
fn a_zero_point_of_0_is_not_stored_less_one() {
    let place = tempfile::tempdir().unwrap();
    let command = Qhost::new(["convert", "--format", "gptq", "--plugin-option", "checkpoint-format=gptq", "-o"]);
    let refused = command.arg(place.path()).arg(fixture("gptq/b4zero")).fail_with(4);
    let text = refused.to_string();
    assert!(text.contains("model.layers.0.") && text.contains("zero-point of 0") && text.contains("gptq_v2"), "{text}");
}

/// Scales in bfloat16 are rounded to binary16 once, and nothing else is.
#[test]
fn scales_of_another_type_are_rounded_within_what_is_told() {
    let place = tempfile::tempdir().unwrap();
    let (told, output) = converted(&fixture("awq/bf16"), "gptq", place.path(), &[]);
    assert_eq!(told["conversion"]["fidelity"], "rounded", "{told}");
    let bound = 1.0 / 2048.0 + 1e-9;
    let (before, after) = (weights(&fixture("awq/bf16")), weights(&output));
    for (name, numbers) in before {
        for (one, other) in numbers.iter().zip(&after[&name]) {
            let (one, other) = (f32::from_bits(*one), f32::from_bits(*other));
            assert!((one - other).abs() <= one.abs() * bound, "{name}: {one} {other}");
        }
    }
}

/// What a target does not hold is quantised anew, which has to be agreed to.
#[test]
fn what_a_target_does_not_hold_is_quantised_with_calibration() {
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = packed::rows(&fixture("gptq/b4order"), &place);
    let command = |output: &str| {
        let command = Qhost::new(["convert", "--format", "awq", "-o"]).arg(place.path().join(output));
        command.arg("--calibration").arg(&rows).arg(fixture("gptq/b4order"))
    };
    drop(command("refused").fail_with(9));
    let told = command("made").arg("--yes").json();
    assert_eq!(told["conversion"]["fidelity"], "requantised", "{told}");
    let classes = told["conversion"]["classes"].as_array().unwrap();
    let codes = classes.iter().find(|class| class["encoding"] == "4bit-g32").unwrap();
    // Groups are the source's, though they cannot be taken over.
    assert!(codes["taken"] == "float" && codes["costs_quality"] == true, "{codes}");
    let error = codes["expected_error"].as_f64().unwrap();
    assert!((0.05..0.12).contains(&error), "{codes}");
    let output = PathBuf::from(told["output_path"].as_str().unwrap());
    let divergence = |folder: &Path| {
        let command = Qhost::new(["eval"]).arg(folder).arg("--dataset").arg(&rows).arg("--against");
        command.arg(fixture("gptq/base")).json()["kl_mean"].as_f64().unwrap()
    };
    let (source, output) = (divergence(&fixture("gptq/b4order")), divergence(&output));
    assert!(source < output && output < 2.0 * source, "{source} {output}");
}

/// Of what is asked for, modules that fit are taken over, and only the others are rounded.
#[test]
fn only_what_does_not_fit_is_rounded() {
    let place = tempfile::tempdir().unwrap();
    let (rows, _) = packed::rows(&fixture("gptq/mixed"), &place);
    let command = Qhost::new(["convert", "--format", "gptq", "--bits", "4", "--group-size", "32", "--yes", "-o"]);
    let command = command.arg(place.path().join("out")).arg("--calibration").arg(&rows);
    let told = command.arg(fixture("gptq/mixed")).json();
    let output = PathBuf::from(told["output_path"].as_str().unwrap());
    let (before, after) = (weights(&fixture("gptq/mixed")), weights(&output));
    let same = |module: &str| {
        let name = format!("model.layers.0.{module}.weight");
        before[&name] == after[&name]
    };
    assert!(["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj"].iter().all(|m| same(m)));
    // Floats in the source, and 8 bits.
    assert!(!same("self_attn.k_proj") && !same("mlp.down_proj"));
    assert!(settings(&output).to_string().contains("damp_percent"));
    let classes = told["conversion"]["classes"].as_array().unwrap().iter();
    let mut words: Vec<_> = classes.map(|class| class["fidelity"].as_str().unwrap()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words, ["exact", "quantised", "requantised"], "{told}");
}
