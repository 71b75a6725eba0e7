//! Several formats in one pass: every output is what a run for it alone makes, through kills as well, and they go through
//! the layers side by side.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::{Qhost, test_plugin},
    fixture,
};
use serde_json::Value;

use crate::hub::Case;

/// Sentences to calibrate with, few enough to be quick.
const DATA: [&str; 4] = ["--samples", "6", "--seq-len", "96"];

/// The formats of most tests, and what a run for one alone is asked.
const FORMATS: [(&str, &str); 3] = [("gguf", "Q4_K_M"), ("gptq", "4bit-g64"), ("awq", "4bit-g128")];

/// Their outputs of `tinylm`.
const NAMES: [&str; 3] = ["tinylm-Q4_K_M.gguf", "tinylm-GPTQ-4bit-g64", "tinylm-AWQ-4bit-g128"];

fn data() -> PathBuf {
    fixture("text/prose.tinylm.jsonl")
}

fn quantize(formats: &str, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", formats, "-o"]).arg(output).arg(fixture("tinylm"))
}

fn calibrated(formats: &str, output: &Path) -> Qhost {
    quantize(formats, output).args(DATA).arg("--calibration").arg(data())
}

/// All three formats of [`FORMATS`].
fn all(output: &Path) -> Qhost {
    calibrated("gguf=Q4_K_M,gptq=4bit-g64,awq", output)
}

/// Each of them by itself, in one folder.
fn alone(output: &Path) -> BTreeMap<String, Vec<u8>> {
    for (format, level) in FORMATS {
        let _ = calibrated(format, output).args(["--level", level, "--no-report"]).succeed();
    }
    files(output)
}

/// What all files in a folder hold, but the reports, which tell times.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with("qhost-report.json") {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Whether the same files are there with the same bytes.
fn assert_same(ours: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, when: &str) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{when}");
    for (name, bytes) in expected {
        assert!(ours[name] == *bytes, "{name} is otherwise, {when}");
    }
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn journal(output: &Path, name: &str) -> PathBuf {
    output.join(format!("{name}.partial/journal"))
}

fn journal_lines(output: &Path) -> [usize; 3] {
    NAMES.map(|name| fs::read_to_string(journal(output, name)).map_or(0, |text| text.lines().count()))
}

#[test]
fn every_output_is_that_of_a_run_for_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (one, three) = (folder.path().join("one"), folder.path().join("three"));
    let expected = alone(&one);
    let result = all(&three).args(["--threads", "3"]).json();
    assert_same(&files(&three), &expected, "three formats in one pass");
    let outputs = result["outputs"].as_array().unwrap();
    for (output, (name, (format, level))) in outputs.iter().zip(NAMES.into_iter().zip(FORMATS)) {
        assert_eq!(output["output_path"], three.join(name).display().to_string());
        assert_eq!((&output["format"], &output["level"]), (&format.into(), &level.into()));
        assert_eq!(output["validation"]["status"], "passed");
        assert_eq!(output["schema"], "qhost.result/1");
    }
    assert_eq!(outputs.len(), 3);
    let size = outputs.iter().map(|output| output["file_size"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(result["file_size"], size);
    assert_eq!((&result["format"], &result["output_path"]), (&"gguf,gptq,awq".into(), &three.to_str().unwrap().into()));
    assert_eq!(result["level"], "Q4_K_M,4bit-g64,4bit-g128");
    // The reports tell of each what its own would.
    let _ = calibrated("gptq", &folder.path().join("again")).args(["--level", "4bit-g64"]).succeed();
    let in_folder = |of: &Path| report(&of.join(NAMES[1]).join("qhost-report.json"));
    let (ours, alone) = (in_folder(&three), in_folder(&folder.path().join("again")));
    for key in ["tensors", "options", "calibration", "planned", "plugin", "warnings"] {
        if key == "planned" {
            assert_eq!(ours[key]["file_size"], alone[key]["file_size"]);
        } else {
            assert_eq!(ours[key], alone[key], "{key}");
        }
    }
    assert_eq!(report(&three.join("qhost-report.json"))["format"], "gguf");
}

#[test]
fn units_are_made_layer_by_layer_and_a_run_that_is_behind_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let (output, log) = (folder.path().join("out"), folder.path().join("log"));
    // Units that are begun, in their order: of which format, and which.
    let begun = |qhost: Qhost| {
        let _ = fs::remove_file(&log);
        let _ = qhost.arg("--log-file").arg(&log).succeed();
        let text = fs::read_to_string(&log).unwrap();
        let places = ["embedding", "layer 1 of 4", "layer 2 of 4", "layer 3 of 4", "layer 4 of 4", "head"];
        let of_line = |line: &str| {
            let format = FORMATS.iter().position(|(format, level)| line.contains(&format!("{format} {level}: ")))?;
            let place = places.iter().position(|place| line.contains(&format!(": {place} is begun")))?;
            Some((place, format))
        };
        text.lines().filter_map(of_line).collect::<Vec<_>>()
    };
    let units = begun(all(&output));
    let all_of_them: Vec<_> = (0..6).flat_map(|place| (0..3).map(move |format| (place, format))).collect();
    let there: Vec<_> = all_of_them.iter().copied().filter(|unit| units.contains(unit)).collect();
    assert_eq!(units, there);
    assert!(units.len() >= 15, "{units:?}");
    // Two of them have got further in runs of their own.
    let again = folder.path().join("again");
    calibrated("gptq=4bit-g64", &again).kill_after(&journal(&again, NAMES[1]), 5);
    calibrated("awq", &again).kill_after(&journal(&again, NAMES[2]), 4);
    let ahead = journal_lines(&again);
    let units = begun(all(&again));
    assert!(units.is_sorted() && units.len() < there.len(), "{ahead:?} {units:?}");
    assert_same(&files(&again), &files(&output), "begun by runs for one format");
}

#[test]
fn killed_at_any_instant_it_goes_on_with_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let expected = alone(&folder.path().join("one"));
    let began = Instant::now();
    let _ = all(&folder.path().join("whole")).arg("--no-report").succeed();
    let span = began.elapsed();
    let output = folder.path().join("out");
    let mut at_work = 0;
    for attempt in 0..9_u32 {
        // Instants spread over a whole run, in an order that jumps about; every third time it goes on through two more
        // kills.
        for kill in 0..if attempt % 3 == 0 { 3 } else { 1 } {
            let (mut child, _home) = all(&output).arg("--no-report").start();
            std::thread::sleep(span * ((attempt * 5 + kill * 4) % 9) / 8);
            child.kill().unwrap();
            at_work += u32::from(journal_lines(&output).iter().any(|lines| *lines > 2));
            if child.wait().unwrap().success() {
                break;
            }
        }
        // Whatever has its final name is whole.
        for (name, bytes) in files(&output).iter().filter(|(name, _)| !name.contains(".partial")) {
            assert!(expected[name] == *bytes, "{name}, attempt {attempt}");
        }
        let journals = NAMES.map(|name| journal(&output, name).exists());
        if journals.contains(&true) || !output.join(NAMES[0]).exists() {
            // Killed between removing two work folders, it has nothing left to do, and does not know whose outputs they are.
            let is_done = journals.contains(&false) && NAMES.iter().all(|name| output.join(name).exists());
            let ended = all(&output).arg("--no-report").run();
            assert!(ended.code == Some(0) || (is_done && ended.code == Some(2)), "{ended:?}");
        }
        let mut found = files(&output);
        found.retain(|name, _| !name.contains(".partial"));
        assert_same(&found, &expected, &format!("attempt {attempt}"));
        fs::remove_dir_all(&output).unwrap();
    }
    assert!(at_work >= 4, "only {at_work} of the kills hit a run at work");
}

#[test]
fn when_one_fails_nothing_is_put_in_place_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = |behave: &str| {
        let qhost = quantize("gguf=Q8_0,rows", &output).env("QHOST_BEHAVE", behave);
        qhost.arg("--plugin-dir").arg(test_plugin("misbehave").parent().unwrap())
    };
    let error = run("unused-fails").fail_with(5);
    assert!(error["message"].as_str().unwrap().starts_with("rows f32: "), "{error}");
    assert!(!output.join("tinylm-Q8_0.gguf").exists() && !output.join("tinylm.rows").exists());
    let kept = fs::read_to_string(journal(&output, "tinylm-Q8_0.gguf")).unwrap();
    assert!((3..=5).contains(&kept.lines().count()), "it stopped at a border: {kept}");
    let result = run("unused").json();
    let resumed = |index: usize| result["outputs"][index]["resumed"]["units_done"].as_u64().unwrap();
    assert!((1..=3).contains(&resumed(0)) && resumed(1) >= 1, "{result}");
    let alone = folder.path().join("alone");
    let _ = quantize("gguf", &alone).args(["--level", "Q8_0"]).succeed();
    assert!(fs::read(output.join("tinylm-Q8_0.gguf")).unwrap() == fs::read(alone.join("tinylm-Q8_0.gguf")).unwrap());
}

#[test]
fn a_format_that_is_measured_first_goes_side_by_side_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let formats = "gguf=Q4_0,gptq=9bpw";
    calibrated(formats, &output).kill_after(&journal(&output, "tinylm-GPTQ-9bpw-g128"), 4);
    let result = calibrated(formats, &output).json();
    let alone = folder.path().join("alone");
    let _ = calibrated("gguf", &alone).args(["--level", "Q4_0"]).succeed();
    let _ = calibrated("gptq", &alone).args(["--level", "9bpw"]).succeed();
    assert_same(&files(&output), &files(&alone), &result.to_string());
}

#[test]
fn two_levels_of_one_format_have_reports_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    let result = quantize("gguf", output).args(["--format", "gguf=Q8_0", "--level", "Q4_0"]).json();
    for (index, level) in ["Q4_0", "Q8_0"].into_iter().enumerate() {
        let path = output.join(format!("tinylm-{level}.gguf"));
        let told = &result["outputs"][index];
        let own = output.join(format!("tinylm-{level}.qhost-report.json"));
        assert_eq!(told["report_path"], own.display().to_string());
        assert_eq!(report(&own)["level"], level);
        let checks = Qhost::new(["verify"]).arg(&path).json()["validation"]["checks"].clone();
        assert!(checks.as_array().unwrap().iter().any(|check| check["name"] == "report"), "{checks}");
    }
}

#[test]
fn options_go_to_the_formats_that_take_them() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |formats: &str| {
        Qhost::new(["plan", "--format", formats, "-o"]).arg(folder.path()).arg(fixture("tinylm")).args(DATA)
    };
    let levels = |qhost: Qhost| {
        let document = qhost.arg("--calibration").arg(data()).json();
        document["outputs"].as_array().unwrap().iter().map(|plan| plan["level"].as_str().unwrap().to_owned()).collect()
    };
    let asked: Vec<String> = levels(plan("gguf=Q6_K,gptq,awq").args(["--group-size", "32", "--imatrix", "auto"]));
    assert_eq!(asked, ["Q6_K", "4bit-g32", "4bit-g32"]);
    let of_one: Vec<String> = levels(plan("gptq,awq").args(["--plugin-option", "awq.shard-size=1MB", "--desc-act"]));
    assert_eq!(of_one, ["4bit-g128", "4bit-g128"]);
    let refused = |qhost: Qhost| {
        let error = qhost.fail_with(2);
        format!("{} / {}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap())
    };
    let nobody = refused(plan("gguf,safetensors").args(["--bits", "4"]));
    assert!(nobody.starts_with("none of the formats takes --bits /"), "{nobody}");
    let nobody = refused(plan("gguf,awq").args(["--plugin-option", "nothing=1"]));
    assert!(nobody.contains("--plugin-option nothing / ") && nobody.contains("ID.nothing"), "{nobody}");
    let wrong = refused(plan("gguf,gptq").args(["--plugin-option", "gguf.nothing=1"]));
    assert!(wrong.starts_with("gguf: gguf has no plugin option `nothing`"), "{wrong}");
    let twice = refused(plan("gguf=Q8_0,gguf=Q8_0"));
    assert!(twice.contains("tinylm-Q8_0.gguf"), "{twice}");
    let malformed = Qhost::new(["plan", "--format", "gguf="]).arg(fixture("tinylm")).run();
    assert_eq!(malformed.code, Some(2), "{malformed:?}");
    let unused = refused(plan("gguf=F16,safetensors").arg("--calibration").arg(data()));
    assert!(unused.contains("nothing to calibrate"), "{unused}");
}

#[test]
fn data_that_one_of_them_does_not_use_changes_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let result = calibrated("gguf=F16,gptq", &output).json();
    let alone = folder.path().join("alone");
    let _ = quantize("gguf", &alone).args(["--level", "F16"]).succeed();
    assert!(fs::read(output.join("tinylm-F16.gguf")).unwrap() == fs::read(alone.join("tinylm-F16.gguf")).unwrap());
    let card = |folder: &Path| fs::read_to_string(folder.join("tinylm-F16.md")).unwrap();
    assert_eq!(card(&output), card(&alone));
    assert_eq!(report(&output.join("qhost-report.json"))["calibration"], Value::Null, "{result}");
}

#[test]
fn a_ceiling_of_memory_is_for_all_together_and_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (output, tight) = (folder.path().join("out"), folder.path().join("tight"));
    let _ = all(&output).succeed();
    let refused = all(&tight).args(["--threads", "1", "--max-memory", "16MiB"]).fail_with(6);
    let needed = refused["message"].as_str().unwrap().to_owned();
    assert!(needed.contains("the ceiling is 16.0 MiB") && !tight.exists(), "{needed}");
    let figure: f64 = needed.split("needs ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let enough = format!("{}MiB", figure.ceil() + 24.0);
    let result = all(&tight).args(["--threads", "1", "--max-memory", &enough]).json();
    assert_same(&files(&tight), &files(&output), &format!("{needed}, {enough}: {result}"));
}

#[test]
fn sums_are_planned_and_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |formats: &str| {
        let qhost = Qhost::new(["plan", "--format", formats, "-o"]).arg(folder.path()).arg(fixture("tinylm"));
        qhost.args(DATA).arg("--calibration").arg(data()).json()
    };
    let three = plan("gguf=Q4_K_M,gptq=4bit-g64,awq");
    let outputs = three["outputs"].as_array().unwrap();
    let sum = |of: &dyn Fn(&Value) -> u64| outputs.iter().map(of).sum::<u64>();
    assert_eq!(three["file_size"], sum(&|plan| plan["file_size"].as_u64().unwrap()));
    let on_disk = |key: &str| sum(&|plan| plan["disk"][key].as_u64().unwrap());
    assert!(three["disk"]["needed_bytes"].as_u64().unwrap() >= on_disk("output_bytes") + on_disk("beside_bytes"));
    let about = |plan: &Value| plan["estimate"]["time"]["about_seconds"].as_f64().unwrap();
    let seconds = three["estimate"]["about_seconds"].as_f64().unwrap();
    assert!((seconds - outputs.iter().map(about).sum::<f64>()).abs() < 1e-6, "{three}");
    let peak = |plan: &Value| plan["estimate"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(outputs.iter().all(|plan| peak(plan) <= peak(&three)), "{three}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written");
    let shown = Qhost::new(["plan", "--format", "gguf,gptq", "-o"]).arg(folder.path()).arg(fixture("tinylm"));
    let shown = shown.args(DATA).arg("--calibration").arg(data()).succeed().stdout;
    assert!(shown.contains("2 outputs, ") && shown.lines().count() < 50, "{shown}");
}

#[test]
fn weights_of_a_hub_are_fetched_once() {
    let case = Case::new();
    let result = case.quantize().args(["--format", "gguf=Q8_0,safetensors=BF16"]).json();
    assert_eq!(result["outputs"].as_array().unwrap().len(), 3);
    let seen = case.hub.seen();
    let fetched = seen.iter().filter(|seen| seen.is_transfer() && seen.path.contains("tiny/resolve/"));
    assert_eq!(fetched.count(), 9, "each file once: {seen:?}");
    assert!(fs::read(case.output()).unwrap() == case.expected());
}

#[test]
fn a_conversion_makes_several_formats_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = quantize("gguf=Q4_0", folder.path()).json()["output_path"].as_str().unwrap().to_owned();
    let convert = |formats: &str, output: &Path| {
        Qhost::new(["convert", "--yes", "--format", formats, "-o"]).arg(output).arg(&source)
    };
    let (both, alone) = (folder.path().join("both"), folder.path().join("alone"));
    let result = convert("gptq,safetensors", &both).json();
    let _ = convert("gptq", &alone).succeed();
    let _ = convert("safetensors", &alone).succeed();
    assert_same(&files(&both), &files(&alone), &result.to_string());
    assert!(result["outputs"][0]["conversion"].is_object(), "{result}");
}

#[test]
fn an_interruption_keeps_the_work_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    RandomLlama { hidden: 512, ffn: 1536, layers: 10, heads: 8, ..RandomLlama::default() }.write(&model);
    let output = folder.path().join("out");
    let both = || {
        let qhost = Qhost::new(["quantize", "--format", "gguf=Q4_K_M,gguf=Q6_K", "--threads", "1", "-o"]);
        qhost.arg(&output).arg(&model)
    };
    let (mut child, _home) = both().start();
    let began = Instant::now();
    let lines = || {
        let path = journal(&output, "model-Q6_K.gguf");
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    };
    while lines() < 4 && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let result = both().json();
    for output in result["outputs"].as_array().unwrap() {
        assert!(output["resumed"]["units_done"].as_u64().unwrap() >= 1, "{result}");
    }
}
