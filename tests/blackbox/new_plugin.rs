//! What `qhost plugins new` writes, as its author uses it: built, listed, and its files made, read, measured and converted.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use qhost_tests::{command::Qhost, fixture, repository};

/// Builds the crate as `cargo build --release` does, and gives its library.
///
/// What it depends on is that of the repository: the versions of its Cargo.lock, so that nothing is fetched, and a folder of
/// its own in `target`, where only the first run builds more than the crate.
fn build(krate: &Path, name: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let target = target.join("apart");
    fs::copy(repository().join("Cargo.lock"), krate.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--offline"]).current_dir(krate);
    // The flags of the gate are for the repository's own code; others would build everything anew.
    let built = cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let library = format!("{}qhost_{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    target.join("release").join(library)
}

#[test]
fn a_new_plugin_is_built_and_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let new = Qhost::new(["plugins", "new", "my-int8", "--plugin-api"]).arg(repository().join("plugin-api"));
    let made = new.in_folder(here).json();
    assert_eq!((&made["status"], &made["id"]), (&"ok".into(), &"my-int8".into()), "{made}");
    let krate = here.join("my-int8");
    let library = build(&krate, "my_int8");

    // Everything that its author does next is what the guide says, in this order.
    let data = here.join("data");
    let qhost = |arguments: &[&str]| Qhost::new(arguments).env("XDG_DATA_HOME", &data).in_folder(here);
    let checked = qhost(&["plugins", "check", "--full"]).arg(&library).json();
    assert!(checked["checks"].as_array().unwrap().len() > 15, "{checked}");
    let installed = qhost(&["plugins", "install"]).arg(&library).json();
    assert_eq!(installed["plugin"]["id"], "my-int8", "{installed}");

    let listed = qhost(&["plugins", "list"]).json();
    let row = listed["plugins"].as_array().unwrap().iter().find(|row| row["id"] == "my-int8").unwrap();
    assert_eq!((&row["status"], &row["levels"]), (&"ok".into(), &serde_json::json!(["int8"])), "{row}");

    let model = fixture("tinylm");
    let made = qhost(&["quantize", "--format", "my-int8", "-o", "."]).arg(&model).json();
    assert_eq!(made["validation"]["status"], "passed", "{made}");
    let output = here.join("tinylm-int8");
    let seen = qhost(&["inspect"]).arg(&output).json();
    assert_eq!(seen["format"], "my-int8", "{seen}");
    assert!(output.join("tokenizer.json").is_file() && output.join("config.json").is_file());
    assert_eq!(qhost(&["verify"]).arg(&output).json()["status"], "ok");

    // The integers cost next to nothing, and they are not the weights themselves.
    let text = here.join("text.txt");
    fs::write(
        &text,
        "The package provides the files that are needed to build programs which use the library.\n".repeat(40),
    )
    .unwrap();
    let scored = qhost(&["eval", "--dataset"]).arg(&text).arg("--against").arg(&model).arg(&output).json();
    let divergence = scored["kl_mean"].as_f64().unwrap();
    assert!(divergence > 1e-9 && divergence < 0.01, "{scored}");

    // Other formats take them as a source.
    let converted = qhost(&["convert", "--format", "gguf", "--level", "Q8_0", "--yes", "-o", "."]).arg(&output).json();
    assert_eq!(converted["validation"]["status"], "passed", "{converted}");
    let file = here.join("tinylm-Q8_0.gguf");
    let file = if file.is_file() { file } else { PathBuf::from(converted["output_path"].as_str().unwrap()) };
    assert_eq!(fs::read(here.join(file)).unwrap()[..4], *b"GGUF");
}

#[test]
fn a_name_that_is_none_and_a_folder_that_is_taken_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Qhost::new(["plugins", "new", "My_Plugin"]).in_folder(folder.path()).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("a-z"), "{error}");
    fs::create_dir(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("taken").join("something"), "").unwrap();
    let error = Qhost::new(["plugins", "new", "taken"]).in_folder(folder.path()).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("taken"), "{error}");
    assert_eq!(fs::read_dir(folder.path().join("taken")).unwrap().count(), 1);
}
