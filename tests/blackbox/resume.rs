//! Runs that are killed or interrupted: the next one goes on, says from where, and ends with the same
//! bytes.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::{Ended, Qhost},
};
use serde_json::Value;
use tempfile::TempDir;

/// A model that takes long enough to be caught at it.
fn model(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    let llama = RandomLlama { hidden: 512, ffn: 1536, layers: 10, heads: 8, ..RandomLlama::default() };
    llama.write(&model);
    model
}

fn quantize(model: &Path, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_K_M", "-o"]).arg(output).arg(model)
}

/// One thread makes it slow, so that it can be caught.
fn start(model: &Path, output: &Path) -> (Child, TempDir) {
    quantize(model, output).args(["--threads", "1"]).start()
}

fn partial(output: &Path) -> PathBuf {
    output.join("model-Q4_K_M.gguf.partial")
}

fn journal_lines(output: &Path) -> usize {
    fs::read_to_string(partial(output).join("journal")).map_or(0, |text| text.lines().count())
}

/// Starts a run and ends it the hard way after so many units are in its journal.
fn kill_after(model: &Path, output: &Path, units: usize) {
    // The first two lines are the start and the header.
    quantize(model, output).args(["--threads", "1"]).kill_after(&partial(output).join("journal"), units + 2);
}

fn whole(model: &Path, folder: &Path) -> Vec<u8> {
    let result = quantize(model, &folder.join("whole")).json();
    fs::read(result["output_path"].as_str().unwrap()).unwrap()
}

fn finish(ended: &Ended, output: &Path) -> (Value, Vec<u8>) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let result = ended.document();
    assert!(!partial(output).exists(), "the work folder is gone");
    assert_eq!(result["validation"]["status"], "passed");
    let bytes = fs::read(result["output_path"].as_str().unwrap()).unwrap();
    (result, bytes)
}

#[test]
fn a_run_killed_after_some_units_goes_on_with_the_next_and_gives_the_same_report() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let expected = whole(&model, folder.path());
    let output = folder.path().join("out");
    kill_after(&model, &output, 4);
    assert!(!output.join("model-Q4_K_M.gguf").exists());
    // With another number of threads, too.
    let ended = quantize(&model, &output).args(["--threads", "2", "--json"]).run();
    let (result, bytes) = finish(&ended, &output);
    assert!(bytes == expected);
    let done = result["resumed"]["units_done"].as_u64().unwrap();
    assert!((4..=11).contains(&done), "{result}");
    let from = format!("layer {done} of 10");
    assert_eq!(result["resumed"]["from"], from.as_str(), "{result}");
    assert!(ended.stderr.lines().any(|line| line.contains("\"resuming\"") && line.contains(&from)), "{ended:?}");
    let tensors = |folder: &Path| {
        let report: Value = serde_json::from_slice(&fs::read(folder.join("qhost-report.json")).unwrap()).unwrap();
        report["tensors"].to_string()
    };
    assert_eq!(tensors(&output), tensors(&folder.path().join("whole")));
}

#[test]
fn runs_killed_at_any_instant_end_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let began = Instant::now();
    let expected = whole(&model, folder.path());
    let span = began.elapsed();
    let output = folder.path().join("out");
    let mut at_work = 0;
    for attempt in 0..24_u32 {
        // Instants spread over a whole run and a little beyond, in an order that jumps about.
        let instant = span * (attempt * 7 % 24) / 22;
        let (mut child, _home) = start(&model, &output);
        std::thread::sleep(instant);
        child.kill().unwrap();
        at_work += u32::from(journal_lines(&output) > 2);
        let ended_by_itself = child.wait().unwrap().success();
        let path = output.join("model-Q4_K_M.gguf");
        // Whatever has the final name is whole.
        assert!(!path.exists() || fs::read(&path).unwrap() == expected, "killed after {instant:?}");
        if ended_by_itself {
            fs::remove_dir_all(&output).unwrap();
            continue;
        }
        // Every other time the work goes on through several kills.
        if attempt % 2 == 0 {
            if path.exists() && !partial(&output).join("journal").exists() {
                // Killed after everything was done, perhaps before what is left of the work folder was removed.
                fs::remove_dir_all(&output).unwrap();
                continue;
            }
            let (_, bytes) = finish(&quantize(&model, &output).arg("--json").run(), &output);
            assert!(bytes == expected, "killed after {instant:?}");
            fs::remove_dir_all(&output).unwrap();
        }
    }
    assert!(at_work >= 8, "only {at_work} of the kills hit a run at work");
}

#[test]
fn an_output_that_was_put_in_place_before_the_kill_is_finished_without_work() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let expected = whole(&model, folder.path());
    let output = folder.path().join("out");
    // The state between putting in place and tidying up: made by hand, because the instant is short.
    kill_after(&model, &output, 3);
    let journal = partial(&output).join("journal");
    let (mut child, _home) = start(&model, &output);
    let mut kept = Vec::new();
    while child.try_wait().unwrap().is_none() {
        if let Ok(text) = fs::read(&journal) {
            kept = text;
        }
    }
    let complete = String::from_utf8_lossy(&kept).contains("\"complete\"");
    assert!(complete || kept.ends_with(b"\n"));
    if !complete {
        // The last line came and went between two looks; it is known.
        let json = "{\"record\":\"complete\"}";
        kept.extend(format!("{:016x} {json}\n", xxhash_rust::xxh3::xxh3_64(json.as_bytes())).bytes());
    }
    fs::create_dir_all(partial(&output).join("files")).unwrap();
    fs::write(&journal, &kept).unwrap();
    let (result, bytes) = finish(&quantize(&model, &output).arg("--json").run(), &output);
    assert!(bytes == expected);
    assert_eq!(result["status"], "ok");
    assert!(output.join("qhost-report.json").exists());
}

type Damage = fn(&Path);

#[test]
fn damaged_work_is_found_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let expected = whole(&model, folder.path());
    let output = folder.path().join("out");
    let damages: [(&str, Damage); 5] = [
        ("a byte of the data", |work| {
            let file = work.join("files").join("output");
            let mut bytes = fs::read(&file).unwrap();
            let at = bytes.iter().rposition(|&byte| byte != 0).unwrap();
            bytes[at / 2] ^= 1;
            fs::write(&file, bytes).unwrap();
        }),
        ("the data are cut", |work| {
            let file = OpenOptions::new().write(true).open(work.join("files").join("output")).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("the data are gone", |work| fs::remove_dir_all(work.join("files")).unwrap()),
        ("the journal ends in the midst of a line", |work| {
            let journal = work.join("journal");
            let bytes = fs::read(&journal).unwrap();
            fs::write(&journal, &bytes[..bytes.len() - 9]).unwrap();
        }),
        ("the journal is rubbish", |work| {
            let mut journal = OpenOptions::new().append(true).open(work.join("journal")).unwrap();
            journal.write_all(b"\0\0\0\0garbage\n\xff\xfe").unwrap();
        }),
    ];
    for (what, damage) in damages {
        kill_after(&model, &output, 4);
        damage(&partial(&output));
        let (_, bytes) = finish(&quantize(&model, &output).arg("--json").run(), &output);
        assert!(bytes == expected, "{what}");
        fs::remove_dir_all(&output).unwrap();
    }
}

#[test]
fn work_for_something_else_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    kill_after(&model, &output, 2);
    let fresh = quantize(&model, &output).arg("--fresh").arg("--json").run();
    assert!(fresh.stderr.contains("fresh start"), "{fresh:?}");
    assert_eq!(finish(&fresh, &output).0["resumed"], Value::Null);
    fs::remove_dir_all(&output).unwrap();

    // An option may change bytes without changing any length.
    kill_after(&model, &output, 2);
    let other = quantize(&model, &output).args(["--plugin-option", "pre=llama-bpe", "--json"]).run();
    assert!(other.stderr.contains("other options"), "{other:?}");
    assert_eq!(finish(&other, &output).0["resumed"], Value::Null);
    fs::remove_dir_all(&output).unwrap();

    kill_after(&model, &output, 2);
    let changed = RandomLlama { hidden: 512, ffn: 1536, layers: 10, heads: 8, seed: 1, ..RandomLlama::default() };
    changed.write(&model);
    let expected = whole(&model, folder.path());
    let ended = quantize(&model, &output).arg("--json").run();
    assert!(ended.stderr.contains("the model has changed"), "{ended:?}");
    assert!(finish(&ended, &output).1 == expected);
}

#[test]
fn two_runs_on_one_output_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let output = folder.path().join("out");
    let (mut child, _home) = start(&model, &output);
    while journal_lines(&output) < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = quantize(&model, &output).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("another qhost"), "{error}");
    assert!(child.wait().unwrap().success());
}

/// The first signal is obeyed at the next occasion, with the documented exit code.
#[cfg(unix)]
#[test]
fn an_interrupted_run_ends_with_130_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let expected = whole(&model, folder.path());
    let output = folder.path().join("out");
    for signal in ["INT", "TERM"] {
        let (mut child, _home) = start(&model, &output);
        while journal_lines(&output) < 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert!(!output.join("model-Q4_K_M.gguf").exists());
        let (result, bytes) = finish(&quantize(&model, &output).arg("--json").run(), &output);
        assert!(result["resumed"]["units_done"].as_u64().unwrap() >= 2, "{result}");
        assert!(bytes == expected);
        fs::remove_dir_all(&output).unwrap();
    }
}
