//! GGUF files of a size: the limit is kept to the byte, what is measured decides the types, less is lost than at the level
//! of that size, and neither threads nor kills change a byte.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

fn run(command: &str, output: &Path, arguments: &[&str]) -> Qhost {
    let qhost = Qhost::new([command, "--format", "gguf", "-o"]).arg(output).arg(fixture("tinylm"));
    qhost.args(arguments.iter().copied())
}

fn made(output: &Path, arguments: &[&str]) -> (PathBuf, Value) {
    let result = run("quantize", output, arguments).json();
    assert_eq!(result["validation"]["status"], "passed", "{result}");
    (result["output_path"].as_str().unwrap().into(), result)
}

/// The types of all tensors, by name.
fn types(file: &Path) -> BTreeMap<String, String> {
    let read = Qhost::new(["inspect", "--full"]).arg(file).json();
    let tensors = read["tensors"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    tensors.map(|tensor| (text(&tensor["name"]), text(&tensor["encoding"]))).collect()
}

fn divergence(file: &Path) -> f64 {
    let eval = Qhost::new(["eval", "--ctx", "256", "--dataset"]).arg(fixture("text").join("prose.txt"));
    eval.arg("--against").arg(fixture("tinylm")).arg(file).json()["kl_mean"].as_f64().unwrap()
}

#[test]
fn less_is_lost_than_at_a_level_of_the_same_size() {
    let folder = tempfile::tempdir().unwrap();
    for level in ["Q3_K_M", "Q4_K_M"] {
        let (of_level, result) = made(&folder.path().join(level), &["--level", level]);
        let limit = result["file_size"].as_u64().unwrap();
        let (mixed, result) = made(&folder.path().join(level), &["--max-size", &limit.to_string()]);
        let bytes = fs::metadata(&mixed).unwrap().len();
        assert!(bytes <= limit && bytes + limit / 50 > limit, "{level}: {bytes} of {limit}");
        let name = mixed.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("tinylm-") && name.ends_with("bpw.gguf"), "{name}");
        let (before, after) = (divergence(&of_level), divergence(&mixed));
        assert!(after < before, "{level}: {after} in place of {before}");
        assert!(result["tensors"].is_null() || types(&mixed).len() == types(&of_level).len());
    }
}

#[test]
fn what_is_measured_is_told_and_what_the_user_says_of_tensors_holds() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--level", "4.4bpw", "--plugin-option", "mix=Q3_K,Q4_K,Q6_K", "--tensor-type", "attn_v=Q8_0"];
    let (file, result) = made(folder.path(), &options);
    assert_eq!((&result["level"], file.file_name().unwrap().to_str()), (&"4.4bpw".into(), Some("tinylm-4.4bpw.gguf")));
    assert!(result["bits_per_weight"].as_f64().unwrap() <= 4.4, "{result}");
    for (name, kind) in types(&file) {
        let allowed: &[&str] = match name.as_str() {
            name if name.contains("norm") => &["F32"],
            name if name.contains("attn_v") => &["Q8_0"],
            _ => &["Q3_K", "Q4_K", "Q6_K"],
        };
        assert!(allowed.contains(&kind.as_str()), "{name} is {kind}");
    }
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
    let tensors = report["tensors"].as_array().unwrap();
    let measured: Vec<_> =
        tensors.iter().filter(|tensor| tensor["metrics"]["measured_loss_Q4_K"].is_number()).collect();
    // Six matrices of four layers, the embedding and the head.
    assert_eq!(measured.len(), 6 * 4 + 2);
    for tensor in measured {
        let loss = |kind: &str| tensor["metrics"][format!("measured_loss_{kind}")].as_f64().unwrap();
        assert!(loss("Q3_K") > loss("Q4_K") && loss("Q4_K") > loss("Q6_K") && loss("Q6_K") > 0.0, "{tensor}");
    }
}

#[test]
fn importances_and_data_weigh_what_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, "{\"input_ids\": [3, 5, 8, 13, 21, 34, 55, 89]}\n").unwrap();
    let data = ["--level", "4bpw", "--calibration", rows.to_str().unwrap()];
    let plain = types(&made(&folder.path().join("plain"), &data[..2]).0);
    let (weighed, _) = made(&folder.path().join("weighed"), &[&data[..], &["--imatrix", "auto"]].concat());
    assert_ne!(types(&weighed), plain);
    let (calibrated, result) = made(&folder.path().join("calibrated"), &[&data[..], &["--effort", "fast"]].concat());
    assert_ne!(fs::read(&calibrated).unwrap(), fs::read(&weighed).unwrap());
    assert!(result["bits_per_weight"].as_f64().unwrap() <= 4.0, "{result}");
}

#[test]
fn bytes_depend_neither_on_threads_nor_on_kills() {
    let folder = tempfile::tempdir().unwrap();
    let run = |output: &Path, threads: &str| run("quantize", output, &["--level", "3.9bpw", "--threads", threads]);
    let bytes = |qhost: Qhost| fs::read(qhost.json()["output_path"].as_str().unwrap()).unwrap();
    let expected = bytes(run(&folder.path().join("whole"), "2"));
    for lines in [2, 5, 8] {
        let output = folder.path().join(format!("killed{lines}"));
        let journal = output.join("tinylm-3.9bpw.gguf.partial").join("journal");
        run(&output, "1").kill_after(&journal, lines);
        assert!(bytes(run(&output, "1")) == expected, "other bytes after a kill at line {lines}");
    }
}

#[test]
fn what_cannot_be_is_refused_in_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], code| {
        let error = run("plan", folder.path(), arguments).fail_with(code);
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
        error.to_string()
    };
    assert!(refused(&["--max-size", "1MB"], 4).contains("not to be had"));
    assert!(refused(&["--level", "1bpw"], 4).contains("between"));
    refused(&["--level", "4bpw-g64"], 4);
    refused(&["--level", "4bpw", "--max-size", "4MB"], 2);
    refused(&["--level", "Q4_K_M", "--max-size", "4MB"], 2);
    refused(&["--plugin-option", "mix=Q4_K"], 2);
    refused(&["--level", "4bpw", "--plugin-option", "mix=Q4"], 4);
    refused(&["--level", "4bpw", "--plugin-option", "pure=true"], 2);
    refused(&["--tensor-type", "attn_v=Q9"], 4);
    refused(&["--tensor-type", "(=Q8_0"], 2);
    refused(&["--plugin-option", "override-kv=a=1"], 2);
    refused(&["--plugin-option", "exclude-weights=a"], 2);
    let plan = run("plan", folder.path(), &["--level", "4.5bpw"]).json();
    assert!(plan["bits_per_weight"].as_f64().unwrap() <= 4.5, "{plan}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "a plan has written something");
}

#[test]
fn other_formats_choose_what_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let planned = |format: &str, model: &str, arguments: &[&str]| {
        let qhost = Qhost::new(["plan", "--format", format, "-o"]).arg(folder.path()).arg(fixture(model));
        qhost.args(arguments.iter().copied()).json()
    };
    let text = fixture("text").join("prose.txt");
    let data = ["--calibration", text.to_str().unwrap(), "--samples", "2", "--seq-len", "32"];
    let awq = |arguments: &[&str]| planned("awq", "tinylm", &[&data[..], arguments].concat());
    // The smallest groups within the size.
    let limit = awq(&["--level", "4bit-g64"])["file_size"].to_string();
    assert_eq!(awq(&["--max-size", &limit])["level"], "4bit-g64");
    let error = Qhost::new(["plan", "--format", "awq", "--level", "4bpw"]).arg(fixture("tinylm")).fail_with(4);
    assert!(error["hint"].as_str().unwrap().contains("bits per weight"), "{error}");
    assert_eq!(planned("safetensors", "stories260K", &["--level", "20bpw"])["level"], "F16");
    assert_eq!(planned("safetensors", "stories260K", &["--max-size", "5MB"])["level"], "F32");
}
