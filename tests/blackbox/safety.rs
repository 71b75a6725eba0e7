//! What a run must neither destroy nor claim: other people's files, outputs that appear or change, and
//! sources that change while they are read.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Child,
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::{Qhost, wait_for_work},
    fixture,
};
use serde_json::Value;

pub(crate) const OUTPUT: &str = "model-Q4_K_M.gguf";

/// A model that takes long enough to be caught at it.
pub(crate) fn model(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    RandomLlama { hidden: 512, ffn: 1536, layers: 10, heads: 8, ..RandomLlama::default() }.write(&model);
    model
}

pub(crate) fn quantize(model: &Path, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_K_M", "--threads", "1", "-o"]).arg(output).arg(model)
}

/// Waits until so many units are in the journal of a run that goes on.
fn wait_for_units(child: &mut Child, output: &Path, units: usize) {
    let journal = output.join(format!("{OUTPUT}.partial")).join("journal");
    // The first two lines are the start and the header.
    wait_for_work(child, &journal, |text| text.lines().count() >= units + 2);
}

#[test]
fn files_that_only_look_like_ours_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let q8 = || {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]);
        qhost.arg(folder.path()).arg(fixture("stories260K"))
    };
    let beside = folder.path().join("stories260K-Q8_0.gguf.replaced");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("notes"), "mine").unwrap();
    let partial = folder.path().join("stories260K-Q8_0.gguf.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("notes"), "mine").unwrap();
    let error = q8().fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("notes"), "{error}");
    assert_eq!(fs::read(partial.join("notes")).unwrap(), b"mine");
    fs::remove_dir_all(&partial).unwrap();
    let _ = q8().json();
    let _ = q8().arg("--force").json();
    assert_eq!(fs::read(beside.join("notes")).unwrap(), b"mine");
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("stories260K-Q8_0.gguf");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("precious"), "mine").unwrap();
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "--force", "-o"]);
    let error = qhost.arg(folder.path()).arg(fixture("stories260K")).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("folder"), "{error}");
    assert_eq!(fs::read(there.join("precious")).unwrap(), b"mine");
}

#[test]
fn an_output_that_appears_during_the_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let (mut child, _home) = quantize(&model, &output).start();
    wait_for_units(&mut child, &output, 2);
    fs::write(output.join(OUTPUT), "precious").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(fs::read(output.join(OUTPUT)).unwrap(), b"precious");
    let error = quantize(&model, &output).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("exists"), "{error}");
    fs::remove_file(output.join(OUTPUT)).unwrap();
    let result = quantize(&model, &output).json();
    assert_eq!(result["resumed"]["units_done"], 12, "all of the work was kept: {result}");
    assert_eq!(result["resumed"]["from"], Value::Null, "{result}");
}

#[test]
fn an_output_that_was_changed_after_the_run_is_not_said_to_be_sound() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let partial = output.join(format!("{OUTPUT}.partial"));
    let (mut child, _home) = quantize(&model, &output).start();
    wait_for_units(&mut child, &output, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // A folder in the report's place makes the next run end between putting in place and tidying up.
    fs::create_dir(output.join("qhost-report.json")).unwrap();
    let _ = quantize(&model, &output).fail_with(6);
    assert!(partial.exists() && output.join(OUTPUT).exists());
    let sound = fs::read(output.join(OUTPUT)).unwrap();

    fs::write(output.join(OUTPUT), "something else").unwrap();
    let error = quantize(&model, &output).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("exists"), "{error}");
    assert_eq!(fs::read(output.join(OUTPUT)).unwrap(), b"something else");
    assert!(!partial.exists(), "nothing of the old work is left");
    fs::remove_dir(output.join("qhost-report.json")).unwrap();
    let result = quantize(&model, &output).arg("--force").json();
    assert_eq!(result["resumed"], Value::Null, "{result}");
    assert!(fs::read(output.join(OUTPUT)).unwrap() == sound);
    assert!(!partial.exists());
}

#[test]
fn a_source_that_changes_during_the_run_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let shard = model.join("model.safetensors");
    let (mut child, _home) = quantize(&model, &output).start();
    wait_for_units(&mut child, &output, 2);
    let mut file = OpenOptions::new().write(true).open(&shard).unwrap();
    file.seek(SeekFrom::End(-4096)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    drop(file);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!output.join(OUTPUT).exists());
    // The next run starts over with what is there now.
    let result = quantize(&model, &output).json();
    assert_eq!(result["resumed"], Value::Null, "{result}");
}

/// Reading beyond a file's end kills a process, unless it is prepared.
#[cfg(target_os = "linux")]
#[test]
fn a_source_that_is_cut_during_the_run_ends_it_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let log = folder.path().join("stdout");
    let mut child = std::process::Command::new(qhost_tests::command::dist().join("qhost"))
        .args(["quantize", "--format", "gguf", "--level", "Q4_K_M", "--threads", "1", "--json", "-o"])
        .arg(&output)
        .arg(&model)
        .stdout(fs::File::create(&log).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for_units(&mut child, &output, 2);
    let shard = OpenOptions::new().write(true).open(model.join("model.safetensors")).unwrap();
    shard.set_len(1 << 20).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let error: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert!(error["message"].as_str().unwrap().contains("cut short"), "{error}");
    assert!(!output.join(OUTPUT).exists());
}

/// Logs that lie and grow beside the weights belong to nobody's output.
#[test]
fn files_that_the_output_does_not_depend_on_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let log = model.join("train_log.txt");
    fs::write(&log, "step 1\n").unwrap();
    let (mut child, _home) = quantize(&model, &output).start();
    wait_for_units(&mut child, &output, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(&log, "step 1\nstep 2\n").unwrap();
    let result = quantize(&model, &output).json();
    assert!(result["resumed"]["units_done"].as_u64().is_some_and(|done| done >= 2), "{result}");
}
