//! Plugins in processes of their own: the same bytes, and a crash that is an error like any other.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use qhost_tests::{
    command::{Qhost, library_name, test_plugin, wait_for_work},
    fixture,
};
use serde_json::Value;
use tempfile::TempDir;

fn quantize(format: &str, output: &Path, isolate: bool) -> Qhost {
    let qhost = Qhost::new(["quantize", "--threads", "2", "--no-report", "--no-card", "--format", format, "-o"]);
    let qhost = qhost.arg(output).arg(fixture("tinylm"));
    if isolate { qhost.arg("--isolate") } else { qhost }
}

/// The files of an output with their bytes.
fn bytes(output: &str) -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(output);
    let mut files: Vec<_> = if path.is_dir() {
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect()
    } else {
        vec![path]
    };
    files.sort();
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (named(path), fs::read(path).unwrap())).collect()
}

#[test]
fn every_format_has_the_same_bytes() {
    for (format, more) in [
        ("gguf=Q4_K_M", &[][..]),
        ("gguf=4.5bpw", &[]),
        ("gptq", &["--group-size=32", "--samples=4", "--seq-len=64"]),
        ("awq", &["--group-size=32", "--samples=4", "--seq-len=64"]),
        ("safetensors", &[]),
    ] {
        let made = |isolate: bool| {
            let folder = tempfile::tempdir().unwrap();
            let qhost = quantize(format, folder.path(), isolate).args(more);
            let qhost =
                if more.is_empty() { qhost } else { qhost.arg("--calibration").arg(fixture("text").join("prose.txt")) };
            let result = qhost.json();
            bytes(result["output_path"].as_str().unwrap())
        };
        assert!(made(false) == made(true), "{format}");
    }
}

#[test]
fn files_are_read_converted_and_verified_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let source = quantize("gguf=Q8_0", folder.path(), true).json()["output_path"].as_str().unwrap().to_owned();
    let look = |isolate: bool| {
        let with = |arguments: &[&str]| {
            let qhost = Qhost::new(isolate.then_some("--isolate"));
            qhost.args(arguments)
        };
        let inspected = with(&["inspect", &source]).json();
        let mut verified = with(&["verify", &source]).json();
        verified.as_object_mut().unwrap().remove("duration_seconds");
        let out = folder.path().join(if isolate { "apart" } else { "here" });
        let converted = with(&[
            "convert",
            "--format",
            "gptq",
            "--group-size=32",
            "--bits=8",
            "--yes",
            "--no-report",
            "--no-card",
            "-o",
        ]);
        let converted = converted.arg(&out).arg(&source).json();
        (inspected, verified, bytes(converted["output_path"].as_str().unwrap()))
    };
    let (here, apart) = (look(false), look(true));
    assert_eq!(here.0, apart.0);
    assert_eq!(here.1, apart.1);
    assert!(here.2 == apart.2);
}

/// A user with a build of a plugin in a folder of its own.
struct User {
    folder: TempDir,
}

impl User {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        fs::copy(test_plugin("misbehave"), folder.path().join("plugins").join(library_name("misbehave"))).unwrap();
        Self { folder }
    }

    fn quantize(&self, behave: &str) -> Qhost {
        let qhost = Qhost::new(["quantize", "--isolate", "--threads=2", "--format", "rows", "--plugin-dir"]);
        let qhost = qhost.arg(self.folder.path().join("plugins")).arg("-o").arg(self.folder.path().join("out"));
        let qhost = qhost.arg(fixture("stories260K")).env("XDG_DATA_HOME", self.folder.path().join("data"));
        // What is left of the sockets would be there.
        qhost.env("QHOST_BEHAVE", behave).env("TMPDIR", self.temporary())
    }

    fn temporary(&self) -> PathBuf {
        let folder = self.folder.path().join("tmp");
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}

fn expected() -> Vec<u8> {
    let user = User::new();
    let result = user.quantize("well").json();
    assert_eq!(fs::read_dir(user.temporary()).unwrap().count(), 0, "nothing is left");
    fs::read(result["output_path"].as_str().unwrap()).unwrap()
}

#[test]
fn a_crash_is_an_error_of_the_plugin_and_the_run_is_told_of_as_ever() {
    let expected = expected();
    for (behave, words) in [
        ("panic-unit", "told to panic in a unit"),
        ("crash-segfault", "invalid memory access"),
        ("crash-segfault-loop", "invalid memory access"),
        ("crash-segfault-stranger", "invalid memory access"),
        ("crash-stack", "its stack ran out"),
        ("crash-abort", "crashed (abort"),
        ("crash-memory", "crashed (abort"),
        ("crash-exit", "ended the process"),
        ("crash-sleep", "did nothing that could be seen for 1 seconds"),
        ("crash-kill", "signal: 9"),
    ] {
        let user = User::new();
        let error = user.quantize(behave).env("QHOST_PLUGIN_TIMEOUT", "1").fail_with(7);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{behave}: {error}");
        let crashed = behave.starts_with("crash-") && behave != "crash-kill";
        if crashed {
            assert!(message.contains("`misbehave` 0.1.0"), "{behave}: {error}");
            assert!(message.contains("while it made layer 2 of 5, at model.layers.1."), "{behave}: {error}");
            let refused = user.quantize("well").fail_with(7);
            assert!(refused["hint"].as_str().unwrap().contains(words), "{behave}: {refused}");
            let library = user.folder.path().join("plugins").join(library_name("misbehave"));
            let mut bytes = fs::read(&library).unwrap();
            bytes.push(0);
            fs::write(&library, bytes).unwrap();
        }
        let result = user.quantize("well").json();
        assert_eq!(result["resumed"]["units_done"], 2, "{behave}: {result}");
        assert!(fs::read(result["output_path"].as_str().unwrap()).unwrap() == expected, "{behave}");
    }
}

/// The breaches that the host finds itself are found from afar, too.
#[test]
fn breaches_are_told_in_the_same_words() {
    for (behave, code, words) in [
        ("fail", 5, "some.tensor: told to fail"),
        ("short", 7, "did not write all of"),
        ("past-end", 7, "past the end"),
        ("greedy", 6, "everything needs"),
        ("constant-short", 7, "3 bytes for header"),
        ("refuse", 4, "told to refuse"),
    ] {
        let user = User::new();
        let error = user.quantize(behave).arg("--max-memory=100MiB").fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(words), "{behave}: {error}");
    }
    let user = User::new();
    assert_eq!(user.quantize("well").json()["resumed"], Value::Null);
}

/// What the plugin's process takes counts for the ceiling, and in the report.
#[test]
fn the_memory_of_the_plugin_s_process_is_the_run_s() {
    let folder = tempfile::tempdir().unwrap();
    let run = |command: &str, isolated: &[&str], mebibytes: u32| {
        let qhost = Qhost::new([command, "--format=gguf", "--threads=2", "--force", "-o"]).arg(folder.path());
        qhost.args(isolated).arg(format!("--max-memory={mebibytes}MiB")).arg(fixture("tinylm"))
    };
    let least = |isolated: &[&str]| (8..256).find(|mebibytes| run("plan", isolated, *mebibytes).run().code == Some(0));
    let (alone, together) = (least(&[]).unwrap(), least(&["--isolate"]).unwrap());
    assert!(together >= alone + 4, "{alone} and {together} MiB");
    let taken = |isolated| run("quantize", isolated, 256).json()["peak_memory_bytes"].as_u64().unwrap();
    let (alone, together) = (taken(&[]), taken(&["--isolate"]));
    assert!(together >= alone + (4 << 20), "{alone} and {together} bytes");
}

/// The host's own way of stopping reaches the plugin as ever, and what is done is kept.
#[test]
fn an_interrupted_run_goes_on() {
    let user = User::new();
    let (mut child, _home) = user.quantize("hang").start();
    let journal = user.folder.path().join("out").join("stories260K.rows.partial").join("journal");
    wait_for_work(&mut child, &journal, |text| text.lines().count() >= 4);
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(user.quantize("well").json()["resumed"]["units_done"], 2);
}
