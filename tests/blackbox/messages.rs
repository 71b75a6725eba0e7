//! What is said, where, and in which form: logs, JSON lines, usage errors, streams that fail.

use std::{fs, path::Path};

use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

fn quantize(output: &Path) -> Qhost {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]);
    qhost.arg(output).arg(fixture("stories260K"))
}

#[test]
fn the_log_file_tells_the_whole_story_and_is_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let run = quantize(folder.path()).arg("--log-file").arg(&log).succeed();
    assert!(run.stderr.starts_with("warning: Q8_0 takes 10.60 bits"), "{run:?}");
    let first = fs::read_to_string(&log).unwrap();
    for words in ["plugin gguf", "layer 2 of 5 is begun", "layer 5 of 5 is done", "in its place"] {
        assert!(first.contains(words), "{words}: {first}");
        assert!(!run.stderr.contains(words), "the log is not on the screen: {run:?}");
    }
    let _ = quantize(folder.path()).arg("--log-file").arg(&log).fail_with(2);
    let both = fs::read_to_string(&log).unwrap();
    assert!(both.starts_with(&first) && both[first.len()..].contains("exists already"), "{both}");
}

#[test]
fn verbose_says_what_is_being_done() {
    let folder = tempfile::tempdir().unwrap();
    let verbose = quantize(folder.path()).arg("-v").succeed();
    assert!(verbose.stderr.contains("layer 5 of 5 is done") && !verbose.stderr.contains("is begun"), "{verbose:?}");
    let debug = quantize(folder.path()).args(["-vv", "--force"]).succeed();
    assert!(debug.stderr.contains("layer 5 of 5 is begun"), "{debug:?}");
}

#[test]
fn with_json_every_line_is_json() {
    let folder = tempfile::tempdir().unwrap();
    // A relative folder is warned of.
    let ended = quantize(folder.path()).args(["--json", "-v"]).env("QHOST_PLUGIN_PATH", "relative").succeed();
    let lines: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warning = lines.iter().find(|line| line["event"] == "log" && line["level"] == "warn");
    assert!(warning.unwrap()["message"].as_str().unwrap().contains("relative"), "{ended:?}");
    assert!(lines.iter().any(|line| line["level"] == "info"), "{ended:?}");
}

#[test]
fn usage_errors_name_what_is_wrong() {
    let error = Qhost::new(["quantize"]).arg(fixture("stories260K")).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("--format"), "{error}");
    let error = Qhost::new(["quantise"]).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("quantise"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = |stdout: fs::File| {
        std::process::Command::new(qhost_tests::command::dist().join("qhost"))
            .args(["quantize", "--format", "gguf", "--level", "Q8_0", "--force", "-o"])
            .arg(folder.path())
            .arg(fixture("stories260K"))
            .stdout(stdout)
            .output()
            .unwrap()
    };
    let full = run(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(full.status.code(), Some(6), "{full:?}");
    assert!(String::from_utf8_lossy(&full.stderr).contains("standard output"), "{full:?}");
    assert!(folder.path().join("stories260K-Q8_0.gguf").exists());
}

/// JSON can hold no such path; the work is done all the same.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_no_text_are_shown_as_well_as_can_be() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OsStr::from_bytes(b"out\xff"));
    let model = folder.path().join(OsStr::from_bytes(b"mod\xfeel"));
    qhost_tests::checkpoint::RandomLlama::default().write(&model);
    let qhost = || Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]).arg(&output).arg(&model);
    assert!(qhost().arg("--dry-run").json()["output_path"].as_str().unwrap().contains('\u{fffd}'));
    let result = qhost().json();
    assert!(result["output_path"].as_str().unwrap().contains('\u{fffd}'), "{result}");
    assert_eq!(fs::read_dir(&output).unwrap().count(), 3, "the file, its report and its card");
}

/// The ceiling is kept, or refused in the plan: it is never passed.
#[cfg(target_os = "linux")]
#[test]
fn a_ceiling_of_memory_is_kept_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for threads in ["1", "2", "8"] {
        for mebibytes in [16, 24, 32, 48, 64, 96] {
            let qhost = quantize(folder.path()).args(["--force", "--json", "--threads", threads]);
            let ended = qhost.arg(format!("--max-memory={mebibytes}MiB")).run();
            let document = ended.document();
            if ended.code == Some(0) {
                kept += 1;
                assert!(document["peak_memory_bytes"].as_u64().unwrap() <= mebibytes << 20, "{threads}: {document}");
            } else {
                assert_eq!(ended.code, Some(6), "{ended:?}");
                assert!(document["hint"].as_str().unwrap().contains("--max-memory"), "{document}");
            }
        }
    }
    assert!(kept >= 6, "{kept}");
}
