//! GGUF with `--calibration`: the plain file but for codes and scales, of which less is lost; the bytes depend neither on
//! the threads nor on interruptions. What llama.cpp makes of it is tested beside llama.cpp itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

use crate::{families::family, gguf::Gguf};

/// Rows of tokens as JSONL.
fn rows(folder: &Path, name: &str, vocabulary: u32, (count, length): (u32, u32)) -> PathBuf {
    let row = |row: u32| (0..length).map(|at| (row * 977 + at * at * 31 + at * 7) % vocabulary).collect::<Vec<_>>();
    let lines: Vec<_> = (0..count).map(|index| format!("{{\"input_ids\": {:?}}}\n", row(index))).collect();
    let path = folder.join(name);
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn quantize(model: &Path, level: &str, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", level, "-o"]).arg(output).arg(model)
}

fn path_of(result: &Value) -> PathBuf {
    result["output_path"].as_str().unwrap().into()
}

fn made(qhost: Qhost) -> PathBuf {
    path_of(&qhost.json())
}

/// The divergence from the original over these rows.
fn divergence(file: &Path, original: &Path, data: &Path) -> f64 {
    let qhost = Qhost::new(["eval"]).arg(file).arg("--against").arg(original).arg("--dataset").arg(data);
    qhost.json()["kl_mean"].as_f64().unwrap()
}

/// Sentences, the first of which are for calibration and the others not.
fn prose(folder: &Path) -> [PathBuf; 2] {
    let text = fs::read_to_string(fixture("text/prose.tinylm.jsonl")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let (ours, others) = lines.split_at(lines.len() * 3 / 4);
    [("ours.jsonl", ours), ("others.jsonl", others)].map(|(name, lines)| {
        let path = folder.join(name);
        fs::write(&path, lines.join("\n")).unwrap();
        path
    })
}

#[test]
fn it_is_the_plain_file_but_for_codes_and_scales_and_less_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let [data, others] = prose(folder.path());
    for (level, ratio) in [("Q4_K_M", 0.5), ("Q2_K", 0.6), ("Q5_1", 0.6), ("IQ4_XS", 0.6), ("Q8_0", 0.9)] {
        let plain = made(quantize(&model, level, &folder.path().join("plain")));
        let weighed = quantize(&model, level, &folder.path().join("weighed")).args(["--imatrix", "auto"]);
        let weighed = if level == "Q8_0" { plain.clone() } else { made(weighed.arg("--calibration").arg(&data)) };
        let ours = made(quantize(&model, level, &folder.path().join("ours")).arg("--calibration").arg(&data));
        let (of_plain, of_weighed, of_ours) = (Gguf::read(&plain), Gguf::read(&weighed), Gguf::read(&ours));
        for (plain, ours) in of_plain.tensors.iter().zip(&of_ours.tensors) {
            assert_eq!((&plain.name, plain.kind, &plain.dimensions), (&ours.name, ours.kind, &ours.dimensions));
            assert_eq!(plain.data, ours.data, "{}", ours.name);
        }
        assert_eq!(of_plain.tensors.len(), of_ours.tensors.len());
        let told = |file: &Gguf, key: &str| file.keys.iter().find(|told| told.starts_with(key)).cloned();
        let method = told(&of_ours, "qhost.calibration.method ").unwrap();
        assert!(method.contains("gptq"), "{method}");
        // All matrices, the head and the embedding.
        let entries = told(&of_ours, "quantize.imatrix.entries_count ").unwrap();
        assert!(entries.ends_with(" 30"), "{entries}");
        assert!(told(&of_ours, "quantize.imatrix.dataset ").unwrap().contains("ours.jsonl"));
        for other in [&of_plain, &of_weighed] {
            assert_eq!(told(other, "qhost."), None);
        }
        let [plain, weighed, ours] = [plain, weighed, ours].map(|file| divergence(&file, &model, &others));
        let least = plain.min(weighed);
        assert!(ours <= ratio * least, "{level}: {ours:.3e} of {plain:.3e} and {weighed:.3e}");
        let report = report_in(&folder.path().join("ours"));
        let told = report["tensors"].as_array().unwrap().iter();
        let told = told.filter(|tensor| tensor["metrics"]["output_loss"].as_f64().is_some_and(|loss| loss < 0.2));
        assert_eq!(told.count(), 29, "{level}");
        let card = fs::read_to_string(folder.path().join(format!("ours/tinylm-{level}.md"))).unwrap();
        assert!(card.contains("--calibration ours.jsonl") && card.contains("| calibrated on | `ours.jsonl`"), "{card}");
    }
}

fn report_in(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("qhost-report.json")).unwrap()).unwrap()
}

#[test]
fn neither_threads_nor_a_kill_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let data = rows(folder.path(), "rows.jsonl", 4096, (6, 48));
    let start = |threads: &str, output: &str| {
        let qhost = quantize(&model, "Q3_K_M", &folder.path().join(output)).args(["--threads", threads]);
        qhost.args(["--effort", "best", "--calibration"]).arg(&data)
    };
    let expected = fs::read(made(start("1", "one"))).unwrap();
    assert!(fs::read(made(start("3", "three"))).unwrap() == expected, "other bytes with other threads");
    let output = folder.path().join("killed");
    let journal = output.join("tinylm-Q3_K_M.gguf.partial").join("journal");
    // The start, the header, the embedding and a layer.
    start("1", "killed").kill_after(&journal, 4);
    let result = start("1", "killed").json();
    assert!(result["resumed"]["units_done"].as_u64().unwrap() > 0, "{result}");
    assert!(fs::read(path_of(&result)).unwrap() == expected, "other bytes after a kill");
}

/// Weights stored by input, gate and up in one tensor, experts in one and of their own, latent attention, a head that is
/// the embedding: what is put in the place of the checkpoint's has to be what the file has.
#[test]
fn every_way_in_which_checkpoints_store_matrices_is_calibrated() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["gpt2", "gpt_oss", "mixtral", "qwen2_moe", "deepseek_v2", "phi3", "gemma2", "llama-rope3-tied"] {
        let model = family(name, &folder.path().join(name));
        let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
        let vocabulary = u32::try_from(config["vocab_size"].as_u64().unwrap()).unwrap();
        let data = rows(folder.path(), &format!("{name}.jsonl"), vocabulary, (48, 64));
        let others = rows(folder.path(), &format!("{name}-others.jsonl"), vocabulary - 1, (6, 60));
        let plain = made(quantize(&model, "Q4_0", &folder.path().join("plain")));
        let ours = made(quantize(&model, "Q4_0", &folder.path().join("ours")).arg("--calibration").arg(&data));
        let [plain, ours] = [plain, ours].map(|file| divergence(&file, &model, &others));
        assert!(ours < 0.9 * plain, "{name}: {ours:.3e} of {plain:.3e}");
    }
}

#[test]
fn experts_that_see_few_tokens_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = family("mixtral", folder.path());
    let data = rows(folder.path(), "rows.jsonl", 256, (3, 24));
    let run = |options: &[&str]| {
        let qhost = quantize(&model, "Q4_0", &folder.path().join("out")).arg("--force").args(options);
        qhost.arg("--calibration").arg(&data).succeed()
    };
    let ended = run(&[]);
    assert!(ended.stderr.contains("blk.0.ffn_gate_exps: experts 0, 1"), "{ended:?}");
    assert!(ended.stderr.contains("fewer than 256 tokens"), "{ended:?}");
    let report = report_in(&folder.path().join("out"));
    let told = report["tensors"].as_array().unwrap().iter();
    let told: Vec<_> = told.filter(|tensor| tensor["metrics"]["experts_with_few_tokens"] == 4.0).collect();
    assert!(told.iter().all(|tensor| tensor["name"].as_str().unwrap().contains("_exps")) && !told.is_empty());
    let ended = run(&["--plugin-option", "fewest-tokens=1"]);
    assert!(!ended.stderr.contains("fewer than 256 tokens"), "{ended:?}");
}

#[test]
fn a_conversion_is_calibrated_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let [data, others] = prose(folder.path());
    let source = made(quantize(&model, "Q8_0", &folder.path().join("source")));
    let convert = |output: &str| {
        let qhost = Qhost::new(["convert", "--format", "gguf", "--level", "Q3_K_M", "--yes", "-o"]);
        qhost.arg(folder.path().join(output)).arg(&source)
    };
    let plain = made(convert("plain"));
    let ours = made(convert("ours").arg("--calibration").arg(&data));
    let [plain, ours] = [plain, ours].map(|file| divergence(&file, &model, &others));
    assert!(ours < 0.6 * plain, "{ours:.3e} of {plain:.3e}");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = rows(folder.path(), "rows.jsonl", 4096, (2, 16));
    let start = |level: &str| quantize(&fixture("tinylm"), level, folder.path());
    let with_data = |level: &str| start(level).arg("--calibration").arg(&data);
    let error = start("Q4_K_M").args(["--effort", "best"]).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("--calibration"), "{error}");
    let error = with_data("Q4_K_M").args(["--imatrix", "auto", "--effort", "best"]).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("--effort"), "{error}");
    let error = start("Q4_K_M").args(["--plugin-option", "damp=0.1"]).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("--calibration"), "{error}");
    let error = with_data("Q4_K_M").args(["--plugin-option", "damp=2"]).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("damp"), "{error}");
    let error = with_data("BF16").fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("--calibration"), "{error}");
}
