//! Sizes in the place of bits: what is measured decides which modules have how many, the limit is kept, and neither
//! threads nor kills change a byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

use crate::gptq::{files, json};

/// A text that the fixture knows, in few rows.
fn run(command: &str, model: &str, arguments: &[&str]) -> Qhost {
    let (prose, samples) = (fixture("text").join("prose.txt"), ["--samples", "12", "--seq-len", "128"]);
    let data = Qhost::new([command, "--format", "gptq", "--calibration"]).arg(prose).args(samples);
    data.args(arguments.iter().copied()).arg(fixture(model))
}

/// Makes a folder; gives where it is, and the bytes of its weights.
fn made(folder: &Path, arguments: &[&str]) -> (PathBuf, u64) {
    let result = run("quantize", "tinylm", arguments).arg("-o").arg(folder).json();
    assert_eq!(result["validation"]["status"], "passed");
    let path = PathBuf::from(result["output_path"].as_str().unwrap());
    let weights = fs::metadata(path.join("model.safetensors")).unwrap().len();
    assert_eq!(result["file_size"], weights);
    (path, weights)
}

/// How far the files' answers are from the model's.
fn divergence(folder: &Path) -> f64 {
    let eval = Qhost::new(["eval", "--ctx", "256", "--dataset"]).arg(fixture("text").join("prose.txt"));
    eval.arg("--against").arg(fixture("tinylm")).arg(folder).json()["kl_mean"].as_f64().unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "sizes of a small model")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[test]
fn a_size_between_two_widths_is_kept_and_loses_less_than_a_mean_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (three, small) = made(&folder.path().join("3"), &["--bits", "3"]);
    let (four, large) = made(&folder.path().join("4"), &["--bits", "4"]);
    let limit = u64::midpoint(small, large);
    let (mixed, bytes) = made(&folder.path().join("mixed"), &["--max-size", &limit.to_string()]);
    // The smallest step is that of an output projection by a bit, less than a hundredth of the file.
    assert!(bytes <= limit && bytes + limit / 100 > limit, "{bytes} of {limit}");
    let (worse, better, between) = (divergence(&three), divergence(&four), divergence(&mixed));
    let line = worse + (better - worse) * float(bytes - small) / float(large - small);
    assert!(better < between && between < 0.9 * line, "{better}, {between}, {worse}; the line is at {line}");
    // It is what loaders ask for and what the report tells.
    let verified = Qhost::new(["verify", "--against"]).arg(fixture("tinylm")).arg(&mixed).json();
    assert_eq!(verified["status"], "ok", "{verified}");
    let config = json(&mixed.join("quantize_config.json"));
    let rules: BTreeMap<String, Value> = serde_json::from_value(config["dynamic"].clone()).unwrap();
    assert!(rules.values().all(|rule| rule["bits"] != config["bits"]), "{config}");
    let report = json(&mixed.join("qhost-report.json"));
    let mut widths = BTreeMap::new();
    for tensor in report["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let Some(module) = name.strip_suffix(".qweight") else { continue };
        let losses = ["2", "3", "4", "8"].map(|bits| tensor["metrics"][format!("measured_loss_{bits}bit")].as_f64());
        let losses = losses.map(Option::unwrap);
        assert!(losses.is_sorted_by(|fewer, more| fewer > more), "{module}: {losses:?}");
        let width = tensor["encoding"].as_str().unwrap().split_once("bit").unwrap().0.to_owned();
        widths.insert(module.to_owned(), width);
    }
    assert_eq!(widths.len(), 28);
    assert!(widths.values().collect::<BTreeSet<_>>().len() > 1, "{widths:?}");
    for (module, width) in &widths {
        let (parent, last) = module.rsplit_once('.').unwrap();
        let first = match last {
            "k_proj" | "v_proj" => "q_proj",
            "up_proj" => "gate_proj",
            alone => alone,
        };
        assert_eq!(*width, widths[&format!("{parent}.{first}")], "{module} is run with {first}");
    }
}

#[test]
fn neither_threads_nor_kills_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = |threads| ["--level", "8.4bpw-g32", "--effort", "fast", "--threads", threads];
    let (whole, _) = made(&folder.path().join("two"), &arguments("2"));
    let expected = files(&whole);
    let output = folder.path().join("killed");
    let journal = output.join("tinylm-GPTQ-8.4bpw-g32.partial").join("journal");
    let lines = |text: &str, of: &str| text.lines().filter(|line| line.contains(of)).count();
    let written = |of| lines(&fs::read_to_string(&journal).unwrap_or_default(), of);
    // Once while it measures, and once after it.
    for (of, units) in [("\"record\":\"survey\"", 3), ("\"record\":\"unit\"", 4)] {
        let before = written(of);
        let start = run("quantize", "tinylm", &arguments("1")).arg("-o").arg(&output);
        start.kill_when(&journal, |text| lines(text, of) >= before + units);
    }
    // The embedding, four layers and the head, each measured once.
    assert_eq!(written("\"record\":\"survey\""), 6);
    let ended = run("quantize", "tinylm", &arguments("1")).arg("-o").arg(&output).arg("--json").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("\"surveying\""), "it is not measured again: {ended:?}");
    let result = ended.document();
    assert!(result["resumed"]["units_done"].as_u64().unwrap() > 0, "{result}");
    assert!(files(Path::new(result["output_path"].as_str().unwrap())) == expected);
}

#[test]
fn sizes_that_are_not_to_be_had_are_refused_in_the_plan() {
    let cases: &[(&[&str], i32, &str, &str)] = &[
        (&["--max-size", "5000000", "--bits", "4"], 2, "--bits 4", "leave one"),
        (&["--max-size", "5000000", "--level", "4bit-g128"], 2, "--level 4bit-g128", "leave one"),
        (&["--max-size", "5000000", "--level", "3bpw"], 2, "bits per weight", "leave one"),
        (&["--level", "3.5bpw-g32", "--group-size", "64"], 2, "contradicts", "leave one"),
        (&["--level", "3.5bpw"], 4, "not to be had", "bits per weight"),
        (&["--max-size", "50MB"], 4, "not to be had", "bits per weight"),
        (&["--max-size", "5600000", "--plugin-option", "mix=5"], 2, "5", "4,8"),
        (&["--plugin-option", "mix=4,8"], 2, "to choose", "--max-size"),
        (
            &["--max-size", "5600000", "--plugin-option", "dynamic={\".*k_proj\": {\"bits\": 8}}"],
            2,
            "k_proj",
            "leave `bits` out",
        ),
    ];
    for (arguments, exit, word, hint) in cases {
        let error = run("plan", "tinylm", arguments).fail_with(*exit);
        assert!(error["message"].as_str().unwrap().contains(word), "{arguments:?}: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{arguments:?}: {error}");
    }
}

#[test]
fn a_plan_with_a_size_says_that_it_is_a_guess_within_the_limit() {
    let plan = run("plan", "tinylm", &["--max-size", "5700000", "--plugin-option", "mix=4,2"]).json();
    assert_eq!((&plan["provisional"], &plan["size_limit"]), (&true.into(), &5_700_000.into()));
    let bytes = plan["file_size"].as_u64().unwrap();
    assert!(bytes <= 5_700_000 && bytes > 5_600_000, "{bytes}");
    assert_eq!(plan["level"], "8.69bpw-g128");
    let encodings = plan["encodings"].to_string();
    assert!(!encodings.contains("3bit") && !encodings.contains("8bit"), "{encodings}");
}

/// Experts of a layer are one choice, in tensors of their own and stacked.
#[test]
fn models_with_experts_have_a_choice_for_all_of_a_layer() {
    for (model, experts) in
        [("arch/mixtral", ".experts."), ("arch/qwen3_moe", ".experts."), ("arch/gpt_oss", ".experts.")]
    {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("rows.jsonl");
        let row = |row: u32| (0..40).map(|at| (row * 977 + at * at * 31 + 7) % 256).collect::<Vec<_>>();
        let lines: Vec<_> = (0..6).map(|index| format!("{{\"input_ids\": {:?}}}\n", row(index))).collect();
        fs::write(&rows, lines.concat()).unwrap();
        let run = |command: &str, asked: &[&str]| {
            let qhost = Qhost::new([command, "--format", "gptq", "--group-size", "32", "--calibration"]).arg(&rows);
            qhost.args(asked.iter().copied()).arg(fixture(model))
        };
        let size = |bits| run("plan", &["--bits", bits]).json()["file_size"].as_u64().unwrap();
        let limit = u64::midpoint(size("2"), size("4"));
        let quantize = run("quantize", &["--max-size", &limit.to_string()]);
        let result = quantize.arg("-o").arg(folder.path()).json();
        let bytes = result["file_size"].as_u64().unwrap();
        assert!(bytes <= limit && bytes + limit / 10 > limit, "{model}: {bytes} of {limit}");
        let report = json(&Path::new(result["output_path"].as_str().unwrap()).join("qhost-report.json"));
        let mut by_layer: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for tensor in report["tensors"].as_array().unwrap() {
            let name = tensor["name"].as_str().unwrap();
            if let Some((layer, _)) = name.split_once(experts).filter(|_| name.ends_with(".qweight")) {
                by_layer.entry(layer.into()).or_default().insert(tensor["encoding"].as_str().unwrap().into());
            }
        }
        assert!(!by_layer.is_empty() && by_layer.values().all(|widths| widths.len() == 1), "{model}: {by_layer:?}");
    }
}
