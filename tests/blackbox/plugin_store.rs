//! Installing, updating and removing plugins, and trying them before that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use qhost_tests::{
    command::{Qhost, library_name, test_plugin},
    fixture,
};
use serde_json::Value;
use tempfile::TempDir;

/// A user with a data folder of their own, and a folder with a plugin that they have got from somewhere.
struct User {
    folder: TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(user.folder.path().join("got")).unwrap();
        fs::copy(test_plugin("nibble"), user.got()).unwrap();
        user
    }

    fn got(&self) -> PathBuf {
        self.folder.path().join("got").join(library_name("nibble"))
    }

    /// Another build of the same plugin, somewhere else: it differs by a byte that nobody reads.
    fn another(&self) -> PathBuf {
        let folder = self.folder.path().join("elsewhere");
        fs::create_dir_all(&folder).unwrap();
        let mut bytes = fs::read(test_plugin("nibble")).unwrap();
        bytes.push(0);
        fs::write(folder.join(library_name("nibble")), bytes).unwrap();
        folder.join(library_name("nibble"))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data").join("qhost")
    }

    fn qhost(&self, arguments: &[&str]) -> Qhost {
        Qhost::new(arguments).env("XDG_DATA_HOME", self.folder.path().join("data"))
    }

    fn install(&self, file: &Path) -> Qhost {
        self.qhost(&["plugins", "install"]).arg(file)
    }

    fn row(&self) -> Option<Value> {
        let list = self.qhost(&["plugins", "list"]).json();
        list["plugins"].as_array().unwrap().iter().find(|row| row["id"] == "nibble").cloned()
    }

    fn library(&self) -> PathBuf {
        self.row().unwrap()["path"].as_str().unwrap().into()
    }

    fn lock(&self) -> Value {
        serde_json::from_slice(&fs::read(self.data().join("plugins.lock")).unwrap()).unwrap()
    }

    fn plan(&self) -> Qhost {
        self.qhost(&["plan", "--format", "nibble"]).arg(fixture("tinylm"))
    }

    /// Libraries in the store.
    fn stored(&self) -> usize {
        let entries = fs::read_dir(self.data().join("store")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }
}

#[test]
fn a_plugin_is_copied_listed_used_and_removed() {
    let user = User::new();
    let told = user.install(&user.got()).json();
    assert_eq!(told["plugin"]["status"], "ok", "{told}");
    assert_eq!(told["replaced"], Value::Null);
    let lock = user.lock();
    let entry = &lock["plugins"][0];
    assert_eq!((&entry["id"], &entry["version"]), (&"nibble".into(), &"0.1.0".into()), "{lock}");
    assert_eq!(entry["origin"], user.got().canonicalize().unwrap().to_str().unwrap());
    let receipt = user.library().with_file_name("receipt.json");
    let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
    assert_eq!(receipt["sha256"], entry["sha256"], "{receipt}");
    // What is loaded is the copy: the file that was installed may be built anew, or go.
    fs::write(user.got(), "something else").unwrap();
    assert_eq!(user.plan().json()["format"], "nibble");
    assert!(user.library().starts_with(user.data().join("store").join(entry["sha256"].as_str().unwrap())));

    let told = user.qhost(&["plugins", "remove", "nibble"]).json();
    assert_eq!(told["removed"]["id"], "nibble", "{told}");
    assert_eq!((user.row(), user.stored()), (None, 0));
    assert_eq!(user.plan().fail_with(7)["code"], 7);
    let again = user.qhost(&["plugins", "remove", "nibble"]).fail_with(7);
    assert!(again["message"].as_str().unwrap().contains("no plugin `nibble` is installed"), "{again}");
    let own = user.qhost(&["plugins", "remove", "gguf"]).fail_with(7);
    assert!(own["hint"].as_str().unwrap().contains("remove that file"), "{own}");
}

#[test]
fn an_update_from_elsewhere_needs_consent_and_leaves_one_library() {
    let user = User::new();
    assert_eq!(user.install(&user.got()).json()["status"], "ok");
    let before = user.lock();
    let refused = user.install(&user.another()).fail_with(9);
    assert!(refused["message"].as_str().unwrap().contains("was installed from"), "{refused}");
    assert_eq!(user.lock(), before);
    let told = user.install(&user.another()).arg("--yes").json();
    assert_eq!(told["replaced"], before["plugins"][0], "{told}");
    assert_ne!(user.lock(), before);
    assert_eq!(user.stored(), 1);
    // The same file needs none, whether it has changed or not.
    let told = user.install(&user.another()).json();
    assert_eq!(told["replaced"], Value::Null, "{told}");
}

#[test]
fn what_has_changed_in_the_store_is_not_loaded_and_is_mended_by_installing() {
    let user = User::new();
    assert_eq!(user.install(&user.got()).json()["status"], "ok");
    let mut bytes = fs::read(user.library()).unwrap();
    bytes.push(0);
    fs::write(user.library(), bytes).unwrap();
    let row = user.row().unwrap();
    assert_eq!((&row["status"], &row["usable"]), (&"modified".into(), &false.into()), "{row}");
    assert!(row["hint"].as_str().unwrap().contains("qhost plugins install"), "{row}");
    assert!(user.plan().fail_with(7)["hint"].as_str().unwrap().contains("not the one that was installed"));

    fs::remove_file(user.library()).unwrap();
    let row = user.row().unwrap();
    assert_eq!((&row["status"], &row["usable"]), (&"missing".into(), &false.into()), "{row}");
    let info = user.qhost(&["plugins", "info", "nibble"]).fail_with(7);
    assert!(info["message"].as_str().unwrap().contains("missing"), "{info}");
    assert_eq!(user.install(&user.got()).json()["status"], "ok");
    assert_eq!(user.row().unwrap()["status"], "ok");
}

#[test]
fn an_archive_with_one_library_is_as_good() {
    let user = User::new();
    fs::write(user.got().with_file_name("README.md"), "nibble").unwrap();
    let archive = user.folder.path().join("nibble.tar.gz");
    let packed = Command::new("tar").arg("czf").arg(&archive).arg("-C").arg(user.folder.path()).arg("got").status();
    assert!(packed.unwrap().success());
    assert_eq!(user.install(&archive).json()["plugin"]["status"], "ok");
    assert_eq!(user.plan().json()["format"], "nibble");
}

#[test]
fn what_cannot_be_used_is_not_installed() {
    let user = User::new();
    let text = user.folder.path().join("notes.txt");
    fs::write(&text, "no plugin").unwrap();
    let cut = user.folder.path().join("got").join(library_name("cut"));
    let whole = fs::read(user.got()).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    for (file, code, words) in [
        (text, 7, "no library and no archive"),
        (cut, 7, "not a whole library"),
        (user.folder.path().join("absent.so"), 3, "cannot read"),
    ] {
        let error = user.install(&file).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    assert!(!user.data().join("plugins.lock").exists());
    assert_eq!(user.row(), None);
}

#[test]
fn with_locked_nothing_but_what_is_listed_is_used() {
    let user = User::new();
    let got = user.got().parent().unwrap().to_owned();
    let plan = |locked: bool| {
        let plan = user.plan().arg("--plugin-dir").arg(&got);
        if locked { plan.arg("--locked") } else { plan }
    };
    assert_eq!(plan(false).json()["format"], "nibble");
    let refused = plan(true).fail_with(7);
    assert!(refused["hint"].as_str().unwrap().contains("--locked allows only what is"), "{refused}");
    // Nothing is added to the list either, but what is on it can be put back.
    let refused = user.install(&user.got()).arg("--locked").fail_with(7);
    assert!(refused["message"].as_str().unwrap().contains("no such plugin"), "{refused}");
    assert_eq!(user.install(&user.got()).json()["status"], "ok");
    assert_eq!(plan(true).json()["format"], "nibble");
    fs::remove_file(
        user.data()
            .join("store")
            .join(user.lock()["plugins"][0]["sha256"].as_str().unwrap())
            .join(library_name("nibble")),
    )
    .unwrap();
    let refused = user.install(&user.another()).args(["--locked", "--yes"]).fail_with(7);
    assert!(refused["message"].as_str().unwrap().contains("has the library"), "{refused}");
    assert_eq!(user.install(&user.got()).arg("--locked").json()["status"], "ok");
    assert_eq!(plan(true).json()["format"], "nibble");
    // The plugins of the distribution are part of qhost.
    assert_eq!(user.qhost(&["plan", "--locked", "--format", "gguf"]).arg(fixture("tinylm")).json()["format"], "gguf");
}

#[test]
fn a_list_that_is_damaged_is_told_and_not_taken_for_an_empty_one() {
    let user = User::new();
    assert_eq!(user.install(&user.got()).json()["status"], "ok");
    fs::write(user.data().join("plugins.lock"), "{").unwrap();
    let error = user.plan().fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("plugins.lock cannot be read"), "{error}");
    let error = user.install(&user.got()).fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("plugins.lock cannot be read"), "{error}");
}

/// Whoever may write into a folder of plugins runs code with the rights of everybody who uses it.
#[cfg(unix)]
#[test]
fn folders_that_anybody_may_write_to_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    let folder = user.got().parent().unwrap().to_owned();
    let list = || user.qhost(&["plugins", "list", "--plugin-dir"]).arg(&folder).json()["plugins"][0].clone();
    assert_eq!(list()["status"], "ok");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let row = list();
    assert_eq!(row["usable"], false, "{row}");
    assert!(row["reason"].as_str().unwrap().contains("anybody may put libraries into"), "{row}");
    assert!(row["hint"].as_str().unwrap().contains("chmod o-w"), "{row}");
}

fn check(behave: &str, arguments: &[&str]) -> Qhost {
    let qhost = Qhost::new(["plugins", "check"]).args(arguments).arg(test_plugin("misbehave"));
    qhost.env("QHOST_BEHAVE", behave)
}

#[test]
fn a_check_tells_what_was_tried() {
    let document = check("well", &[]).json();
    assert_eq!((&document["schema"], &document["full"]), (&"qhost.plugin-check/1".into(), &false.into()));
    let checks: Vec<_> = document["checks"].as_array().unwrap().iter().map(|check| &check["check"]).collect();
    assert_eq!(checks, ["file", "load", "description"], "{document}");
    assert!(document["checks"].as_array().unwrap().iter().all(|check| check["verdict"] == "passed"), "{document}");
    let words = check("well", &[]).succeed().stdout;
    assert!(words.contains("passed   load: ") && words.contains("--full"), "{words}");
    let absent = Qhost::new(["plugins", "check", "nothing"]).fail_with(7);
    assert!(absent["message"].as_str().unwrap().contains("neither a file nor a plugin"), "{absent}");
    assert_eq!(Qhost::new(["plugins", "check", "gguf"]).json()["plugin"]["id"], "gguf");
}

#[test]
fn the_suite_is_run_in_full_and_finds_what_is_wrong() {
    let full = Qhost::new(["plugins", "check", "--full"]).arg(test_plugin("nibble")).json();
    let checks = full["checks"].as_array().unwrap();
    assert!(checks.len() > 20 && checks.iter().all(|check| check["verdict"] != "failed"), "{full}");
    // Formats that need activations are tried like any others: these are drawn.
    for plugin in ["gptq", "awq", "compressed-tensors"] {
        let full = Qhost::new(["plugins", "check", "--full", plugin]).json();
        let checks = full["checks"].as_array().unwrap();
        let all_passed = checks.iter().all(|check| check["verdict"] == "passed");
        assert!(checks.len() > 18 && all_passed, "{full}");
    }
    // It passes over options that it does not know.
    let failed = check("well", &["--full"]).fail_with(8);
    let checks = failed["details"]["checks"].as_array().unwrap();
    let failing: Vec<_> = checks.iter().filter(|check| check["verdict"] == "failed").map(|c| &c["check"]).collect();
    assert!(failing.contains(&&"unknown options".into()), "{failed}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_plugin_that_crashes_or_hangs_in_its_check_harms_nothing_else() {
    for (behave, arguments, words) in [
        ("crash-open", &["--full"][..], "while it was checked"),
        ("hang-open", &["--full", "--timeout=1"], "it was not done after 1 s"),
        ("memory-open", &["--full", "--max-memory=2GiB"], "abort"),
    ] {
        let error = check(behave, arguments).fail_with(8);
        let checks = &error["details"]["checks"];
        let last = checks.as_array().unwrap().last().unwrap();
        assert!(last["verdict"] == "failed" && last["detail"].as_str().unwrap().contains(words), "{behave}: {error}");
    }
}

/// Put away after a crash, and let out again by a check that it passes.
#[cfg(target_os = "linux")]
#[test]
fn a_plugin_that_was_put_away_is_released_by_a_check() {
    let user = User::new();
    let plugins = user.folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(test_plugin("misbehave"), plugins.join(library_name("misbehave"))).unwrap();
    let quantize = |behave: &str| {
        let qhost = user.qhost(&["quantize", "--format", "rows", "--plugin-dir"]).arg(&plugins).arg("-o");
        let qhost = qhost.arg(user.folder.path()).arg(fixture("stories260K")).env("QHOST_BEHAVE", behave);
        // Of the units before it, two may be on their way to the disk.
        qhost.env("QHOST_BEHAVE_UNIT", "4")
    };
    assert_eq!(quantize("crash-segfault").fail_with(7)["code"], 7);
    assert_eq!(quantize("well").fail_with(7)["code"], 7);
    let library = plugins.join(library_name("misbehave"));
    let install = user.install(&library).fail_with(7);
    assert!(install["message"].as_str().unwrap().contains("invalid memory access"), "{install}");
    let check = || user.qhost(&["plugins", "check"]).arg(&library);
    let looked = check().json();
    assert_eq!((&looked["released"], &looked["plugin"]["status"]), (&false.into(), &"quarantined".into()));
    let released = check().arg("--release").json();
    assert_eq!(released["released"], true, "{released}");
    // The work goes on with the same build.
    let resumed = quantize("well").json()["resumed"]["units_done"].clone();
    assert!(resumed.as_u64().is_some_and(|done| done >= 2), "{resumed}");
}
