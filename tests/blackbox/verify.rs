//! `qhost verify`: sound files pass, and whatever is wrong with a file is found and named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{copy_of, write_json},
    command::Qhost,
    fixture,
};
use serde_json::{Value, json};

use crate::inspect::quantize;

fn verify(path: &Path) -> Qhost {
    Qhost::new(["verify"]).arg(path)
}

/// Fails with findings; gives the failed ones, each as `name: detail`.
fn findings(qhost: Qhost) -> Vec<String> {
    let error = qhost.fail_with(8);
    assert_eq!(error["details"]["schema"], "qhost.verification/1");
    let checks = error["details"]["validation"]["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["status"] == "failed");
    failed.map(|check| format!("{}: {}", check["name"].as_str().unwrap(), check["detail"].as_str().unwrap())).collect()
}

/// A small file of ours, to be spoilt.
struct Case {
    _folder: tempfile::TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    tensors: Vec<Value>,
}

impl Case {
    fn new(level: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = quantize(&fixture("tinylm"), level, folder.path());
        let told = Qhost::new(["inspect"]).arg(&path).json();
        let bytes = fs::read(&path).unwrap();
        Self { _folder: folder, path, bytes, tensors: told["tensors"].as_array().unwrap().clone() }
    }

    fn tensor(&self, name: &str) -> std::ops::Range<usize> {
        let tensor = self.tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        let number = |key: &str| usize::try_from(tensor[key].as_u64().unwrap()).unwrap();
        number("offset")..number("offset") + number("bytes")
    }

    fn spoil(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        fs::write(&self.path, bytes).unwrap();
    }
}

/// The figures are those of the report, which were measured while the file was made.
fn assert_same_figures(model: &Path, level: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = quantize(model, level, folder.path());
    let told = verify(&path).args(["--for", "llama.cpp", "--against"]).arg(model).json();
    let name = format!("{} {level}", model.display());
    assert_eq!((told["status"].as_str(), told["level"].as_str()), (Some("ok"), Some(level)), "{name}: {told}");
    let checks = told["validation"]["checks"].as_array().unwrap();
    let checks: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(checks, ["structure", "keys", "loader", "numbers", "report", "comparison"], "{name}");
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
    let compared = told["comparison"]["tensors"].as_array().unwrap();
    let figure = |tensor: &str| compared.iter().find(|told| told["name"] == tensor).unwrap();
    for tensor in report["tensors"].as_array().unwrap() {
        let (tensor, expected) = (tensor["name"].as_str().unwrap(), &tensor["metrics"]["relative_rms_error"]);
        assert_eq!(&figure(tensor)["relative_rms_error"], expected, "{name}: {tensor}");
        let (relative, largest) = (expected.as_f64().unwrap(), figure(tensor)["max_abs_error"].as_f64().unwrap());
        assert_eq!(relative > 0.0, largest > 0.0, "{name}: {tensor}");
    }
    assert_eq!(told["comparison"]["not_compared"], json!([]), "{name}");
}

#[test]
fn every_level_passes_and_its_errors_are_those_of_the_report() {
    for level in [
        "Q2_K", "Q3_K_M", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_1", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q6_K", "Q8_0",
        "F16", "BF16", "F32",
    ] {
        assert_same_figures(&fixture("tinylm"), level);
    }
    assert_same_figures(&fixture("stories260K"), "Q4_K_M");
}

/// Rows in another order, norms of heads and with one added, factors that are computed, stacked experts,
/// fused, transposed and split tensors.
#[test]
fn tensors_of_other_families_are_found_in_their_source() {
    for family in ["qwen3", "llama-rope3-tied", "mixtral", "qwen3_moe", "gemma2", "gpt2", "phi3", "deepseek_v2"] {
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of(&fixture("arch").join(family), folder.path());
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), model.join(file)).unwrap();
        }
        assert_same_figures(&model, "Q8_0");
    }
}

#[test]
fn a_scale_that_is_no_number_is_found() {
    let case = Case::new("Q4_K_M");
    let place = case.tensor("blk.2.ffn_up.weight");
    // The seventh block's scale of scales.
    case.spoil(|bytes| bytes[place.start + 6 * 144..][..2].copy_from_slice(&0x7e00_u16.to_le_bytes()));
    let found = findings(verify(&case.path));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("numbers: blk.2.ffn_up.weight") && found[0].contains("element 1536"), "{found:?}");
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_found() {
    let case = Case::new("Q8_0");
    for length in [100, case.bytes.len() / 2, case.bytes.len() - 33] {
        case.spoil(|bytes| bytes.truncate(length));
        let found = findings(verify(&case.path));
        assert!(found[0].starts_with("structure: "), "{found:?}");
    }
    case.spoil(|bytes| bytes.extend([0; 64]));
    assert!(findings(verify(&case.path))[0].contains("after its last tensor"));
}

#[test]
fn an_offset_that_is_wrong_is_found() {
    let case = Case::new("Q8_0");
    let name = b"blk.1.attn_k.weight";
    let at = case.bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16 + 4;
    for shift in [1, 32, 1 << 30] {
        case.spoil(|bytes| {
            let offset = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            bytes[at..at + 8].copy_from_slice(&(offset + shift).to_le_bytes());
        });
        let found = findings(verify(&case.path));
        assert!(found[0].starts_with("structure: ") && found[0].contains("blk.1.attn_"), "{shift}: {found:?}");
    }
}

#[test]
fn tensors_that_changed_places_are_found_by_comparing_alone() {
    let case = Case::new("Q8_0");
    let (first, second) = (case.tensor("blk.0.attn_q.weight"), case.tensor("blk.1.attn_q.weight"));
    case.spoil(|bytes| {
        let kept = bytes[first.clone()].to_vec();
        bytes.copy_within(second.clone(), first.start);
        bytes[second].copy_from_slice(&kept);
    });
    let _ = verify(&case.path).json();
    let found = findings(verify(&case.path).arg("--against").arg(fixture("tinylm")));
    assert!(found[0].starts_with("comparison: blk.") && found[0].contains("attn_q.weight"), "{found:?}");
}

#[test]
fn another_source_is_found() {
    let case = Case::new("Q8_0");
    let found = findings(verify(&case.path).arg("--against").arg(fixture("stories260K")));
    assert!(found[0].starts_with("comparison: "), "{found:?}");
    let error = verify(&case.path).arg("--against").arg(fixture("arch").join("qwen3")).fail_with(4);
    assert!(error["message"].as_str().unwrap().contains("architecture llama"), "{error}");
}

#[test]
fn the_report_beside_a_file_is_held_against_it() {
    let case = Case::new("Q8_0");
    let place = case.path.with_file_name("qhost-report.json");
    let mut report: Value = serde_json::from_slice(&fs::read(&place).unwrap()).unwrap();
    report["tensors"][3]["encoding"] = "Q4_0".into();
    write_json(&place, &report);
    let found = findings(verify(&case.path));
    assert!(found[0].starts_with("report: ") && found[0].contains("Q4_0"), "{found:?}");
    // A report about another file is no business of this one.
    let other = case.path.with_file_name("other.gguf");
    fs::rename(&case.path, &other).unwrap();
    let told = verify(&other).json();
    assert!(told["validation"]["checks"].as_array().unwrap().iter().all(|check| check["name"] != "report"), "{told}");
}

#[test]
fn loaders_are_those_that_the_format_names() {
    let case = Case::new("Q8_0");
    let error = verify(&case.path).args(["--for", "vllm"]).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("llama.cpp"), "{error}");
    case.spoil(|bytes| {
        let key = b"llama.block_count";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        bytes[at] = b'x';
    });
    let _ = verify(&case.path).json();
    let found = findings(verify(&case.path).args(["--for", "llama.cpp"]));
    assert!(found[0].starts_with("loader: `llama.block_count` is missing"), "{found:?}");
}

#[test]
fn checkpoints_are_checked_by_the_host_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("stories260K"), folder.path());
    let told = verify(&model).args(["--for", "transformers"]).json();
    assert_eq!((told["format"].as_str(), told["status"].as_str()), (Some("safetensors"), Some("ok")));
    let error = verify(&model).args(["--for", "llama.cpp"]).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("vllm"), "{error}");
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut spoilt = whole.clone();
    let end = spoilt.len();
    spoilt[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&weights, spoilt).unwrap();
    assert!(findings(verify(&model))[0].starts_with("numbers: "));
    fs::write(&weights, &whole[..end - 1]).unwrap();
    assert!(findings(verify(&model))[0].starts_with("structure: "));
    fs::write(&weights, whole).unwrap();
    fs::remove_file(model.join("tokenizer.model")).unwrap();
    assert!(findings(verify(&model).args(["--for", "vllm"]))[0].contains("no tokenizer"));
}

#[test]
fn people_are_told_what_failed_and_what_to_do() {
    let case = Case::new("Q8_0");
    let passed = verify(&case.path).succeed();
    assert!(passed.stdout.contains("passed  numbers") && passed.stderr.is_empty(), "{passed:?}");
    case.spoil(|bytes| bytes.truncate(5000));
    let failed = verify(&case.path).run();
    assert_eq!(failed.code, Some(8), "{failed:?}");
    assert!(failed.stdout.contains("FAILED  structure") && failed.stderr.contains("hint:"), "{failed:?}");
}
