//! Plugins that bring the process down, or never come back: the process ends by the contract and says who did what,
//! finished work is kept, the build is not loaded again, and a fixed one goes on.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    command::{Ended, Qhost, library_name, test_plugin},
    fixture,
};
use serde_json::Value;
use tempfile::TempDir;

/// A user with a data folder, an output, and a build of a plugin in a folder of its own.
struct User {
    folder: TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(user.plugins()).unwrap();
        fs::copy(test_plugin("misbehave"), user.library()).unwrap();
        user
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    fn library(&self) -> PathBuf {
        self.plugins().join(library_name("misbehave"))
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Another build of the same plugin, which differs by a byte that nobody reads.
    fn replace_the_library(&self) {
        let mut bytes = fs::read(self.library()).unwrap();
        bytes.push(0);
        fs::write(self.library(), bytes).unwrap();
    }

    fn qhost(&self, arguments: &[&str]) -> Qhost {
        let qhost = Qhost::new(arguments).arg("--plugin-dir").arg(self.plugins());
        qhost.env("XDG_DATA_HOME", self.folder.path().join("data"))
    }

    fn quantize(&self, behave: &str) -> Qhost {
        let qhost = self.qhost(&["quantize", "--format", "rows", "--threads", "2"]).arg("-o").arg(self.output());
        qhost.arg(fixture("stories260K")).env("QHOST_BEHAVE", behave).env("QHOST_BEHAVE_UNIT", "4")
    }

    fn row(&self) -> Value {
        let list = self.qhost(&["plugins", "list"]).json();
        list["plugins"].as_array().unwrap().iter().find(|row| row["id"] == "misbehave").unwrap().clone()
    }
}

fn expected() -> Vec<u8> {
    let user = User::new();
    fs::read(user.quantize("well").json()["output_path"].as_str().unwrap()).unwrap()
}

/// Unit 4 ends the process: of those before it one may wait for the disk and one may be on its way to it, so at least two
/// are durable.
#[test]
fn a_crash_is_told_by_name_and_the_build_is_not_loaded_again() {
    let expected = expected();
    for (behave, words) in [
        ("crash-segfault", "invalid memory access"),
        ("crash-segfault-loop", "invalid memory access"),
        ("crash-stack", "its stack ran out"),
        ("crash-stack-loop", "its stack ran out"),
        ("crash-abort", "crashed (abort"),
        ("crash-memory", "crashed (abort"),
        ("crash-exit", "ended the process"),
        ("crash-segfault-thread", "invalid memory access"),
        ("crash-segfault-stranger", "invalid memory access"),
        ("crash-abort-stranger", "crashed (abort"),
        ("crash-exit-thread", "ended the process"),
        ("crash-sleep", "did nothing that could be seen for 1 seconds"),
        ("crash-sleep-loop", "did nothing that could be seen for 1 seconds"),
    ] {
        let user = User::new();
        let error = user.quantize(behave).env("QHOST_PLUGIN_TIMEOUT", "1").fail_with(7);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{behave}: {error}");
        assert!(message.contains("the plugin `misbehave` 0.1.0"), "{behave}: {error}");
        assert!(message.contains("while it made layer 4 of 5, at model.layers.3."), "{behave}: {error}");
        assert!(!user.output().join("stories260K.rows").exists(), "{behave}");

        let row = user.row();
        assert_eq!((&row["status"], &row["usable"]), (&"quarantined".into(), &false.into()), "{behave}: {row}");
        assert!(row["reason"].as_str().unwrap().contains(words), "{behave}: {row}");
        let refused = user.quantize("well").fail_with(7);
        assert!(refused["hint"].as_str().unwrap().contains(words), "{behave}: {refused}");

        user.replace_the_library();
        assert_eq!(user.row()["status"], "ok", "{behave}");
        let Ended { stdout, stderr, .. } = user.quantize("well").arg("--output-format=json").succeed();
        let result: Value = serde_json::from_str(&stdout).unwrap();
        let done = result["resumed"]["units_done"].as_u64().unwrap();
        assert!((2..=4).contains(&done), "{behave}: {result}");
        assert!(stderr.contains("the last run ended early because the plugin `misbehave`"), "{behave}: {stderr}");
        assert_eq!(fs::read(result["output_path"].as_str().unwrap()).unwrap(), expected, "{behave}");
    }
}

#[test]
fn people_are_told_in_words() {
    let user = User::new();
    let ended = user.quantize("crash-segfault").run();
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stderr.contains("\nerror: the plugin `misbehave` 0.1.0 crashed (invalid memory access"), "{ended:?}");
    assert!(ended.stderr.contains("\nhint: finished work is kept"), "{ended:?}");
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_crash_before_there_is_work_is_told_too() {
    let user = User::new();
    let error = user.quantize("crash-open").fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("while it planned"), "{error}");
    assert!(!user.output().exists());
    assert_eq!(user.row()["status"], "quarantined");
}

/// Other options, or another model, are other work, whatever has crashed.
#[test]
fn another_build_takes_up_the_same_work_only() {
    let user = User::new();
    assert_eq!(user.quantize("crash-segfault").fail_with(7)["code"], 7);
    user.replace_the_library();
    let ended = user.quantize("folder").succeed();
    assert!(!ended.stderr.contains("resum"), "{ended:?}");

    // Without a crash, another build begins anew.
    let user = User::new();
    assert_eq!(user.quantize("fail").fail_with(5)["code"], 5);
    user.replace_the_library();
    assert_eq!(user.quantize("well").json()["resumed"], Value::Null);
}

/// A run that was killed from outside is nobody's fault: no build is put away for it.
#[test]
fn a_kill_is_no_crash() {
    let user = User::new();
    let (mut child, _home) = user.quantize("hang").start();
    let work = user.output().join("stories260K.rows.partial").join("at-work");
    wait_for(&work, "layer 4 of 5");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(user.row()["status"], "ok");
    let ended = user.quantize("well").arg("-v").succeed();
    assert!(
        ended.stderr.contains("the last run was ended when the plugin `misbehave` 0.1.0 was at layer 4 of 5"),
        "{ended:?}"
    );
}

fn wait_for(path: &Path, text: &str) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !fs::read_to_string(path).is_ok_and(|found| found.contains(text)) {
        assert!(std::time::Instant::now() < until, "{} never has {text}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Calls from a thread of the plugin's own, which the contract forbids, are answered like any other.
#[test]
fn a_thread_of_the_plugin_s_own_is_answered() {
    let expected = expected();
    let user = User::new();
    let result = user.quantize("own-thread").json();
    assert_eq!(fs::read(result["output_path"].as_str().unwrap()).unwrap(), expected);
}
