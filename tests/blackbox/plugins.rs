//! What is found on the plugin path, and what is said of what cannot be used.

use std::{fs, path::Path};

use qhost_tests::{
    command::{Qhost, dist, library_name, plugin, test_plugin},
    fixture,
};
use serde_json::Value;

/// The rows of `plugins list` for libraries in this folder.
fn rows_in(folder: &Path) -> Vec<Value> {
    let document = Qhost::new(["plugins", "list", "--plugin-dir"]).arg(folder).json();
    assert_eq!(document["schema"], "qhost.plugins/1");
    let rows = document["plugins"].as_array().unwrap().clone();
    rows.into_iter().filter(|row| Path::new(row["path"].as_str().unwrap()).starts_with(folder)).collect()
}

/// The only row for a folder with one library of these bytes.
fn row_of(bytes: &[u8]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(library_name("spoiled")), bytes).unwrap();
    let rows = rows_in(folder.path());
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].clone()
}

fn assert_unusable(row: &Value, status: &str, reason: &str) {
    assert_eq!(row["status"], status, "{row}");
    assert_eq!(row["usable"], false, "{row}");
    assert!(row["reason"].as_str().is_some_and(|text| text.contains(reason)), "{row}");
    assert!(row["hint"].as_str().is_some_and(|text| !text.is_empty()), "{row}");
}

/// Replaces a text everywhere in a library; the file stays as long as it was.
fn patched(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes()));
    let places: Vec<_> = places.collect();
    assert!(!places.is_empty(), "{from}");
    let mut patched = bytes.to_vec();
    for at in places {
        patched[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    patched
}

#[test]
fn the_plugins_of_the_distribution_are_listed_with_their_levels() {
    let document = Qhost::new(["plugins", "list"]).json();
    for (id, level) in [
        ("gguf", "Q4_K_M"),
        ("awq", "4bit-g128"),
        ("compressed-tensors", "4bit-g128"),
        ("gptq", "4bit-g128"),
        ("safetensors", "BF16"),
    ] {
        let row = document["plugins"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
        assert_eq!(row["status"], "ok", "{row}");
        assert_eq!(row["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(row["api"], "^1.0");
        assert_eq!(row["formats"], serde_json::json!([id]));
        assert!(row["levels"].as_array().unwrap().contains(&level.into()), "{row}");
        assert_eq!(Path::new(row["path"].as_str().unwrap()).parent().unwrap(), dist().join("plugins"));
    }
    let human = Qhost::new(["plugins", "list"]).succeed().stdout;
    assert!(human.contains("gguf 0.1.0  ok") && human.contains("Q4_K_M"), "{human}");
}

#[test]
fn both_spellings_of_json_give_the_same_list() {
    let short = Qhost::new(["plugins", "list", "--json"]).succeed().stdout;
    assert_eq!(Qhost::new(["plugins", "list", "--format", "json"]).succeed().stdout, short);
    assert_eq!(Qhost::new(["--output-format", "json", "plugins", "list"]).succeed().stdout, short);
}

#[test]
fn the_list_of_levels_is_described_by_info() {
    let document = Qhost::new(["plugins", "info", "gguf"]).json();
    let format = &document["plugins"][0]["description"]["formats"][0];
    assert_eq!(format["default_level"], "Q4_K_M");
    assert_eq!(format["levels"].as_array().unwrap().len(), 19);
    let missing = Qhost::new(["plugins", "info", "nothing"]).fail_with(7);
    assert!(missing["message"].as_str().unwrap().contains("nothing"));
}

/// The system's loader tells every file that it opens.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn listing_loads_nothing_and_quantising_only_what_it_needs() {
    let opened = |qhost: Qhost| {
        let ended = qhost.env("LD_DEBUG", "files").run();
        ended.stderr.lines().filter(|line| line.contains("libqhost_")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(opened(Qhost::new(["plugins", "list"])), Vec::<String>::new());
    let model = fixture("tinylm");
    let lines = opened(Qhost::new(["plan", "--format", "gguf"]).arg(model));
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("libqhost_gguf")), "{lines:?}");
}

#[test]
fn a_cut_library_is_a_row_with_a_reason_at_any_length() {
    let whole = fs::read(plugin("gptq")).unwrap();
    // The first bytes one by one, then in steps through the file, then the last bytes.
    let front = 0..70;
    let middle = (70..whole.len()).step_by(whole.len() / 40);
    let back = whole.len() - 70..whole.len();
    for length in front.chain(middle).chain(back) {
        let row = row_of(&whole[..length]);
        assert_unusable(&row, "invalid", "");
    }
    assert_eq!(row_of(&whole)["status"], "ok");
}

#[test]
fn what_is_no_plugin_is_a_row_with_a_reason() {
    assert_unusable(&row_of(b""), "invalid", "empty");
    assert_unusable(&row_of(b"#!/bin/sh\necho I am a script\n"), "invalid", "not a whole library");
    let executable = fs::read(dist().join(format!("qhost{}", std::env::consts::EXE_SUFFIX))).unwrap();
    assert_eq!(row_of(&executable)["status"], "invalid");
    let whole = fs::read(plugin("gguf")).unwrap();
    // The section's name lies in the table of names.
    assert_unusable(&row_of(&patched(&whole, ".qhost\0", ".other\0")), "invalid", "no manifest");
    assert_unusable(&row_of(&patched(&whole, "\"id\":\"gguf\"", "\"id\":\"GG F\"")), "invalid", "a-z");
    assert_unusable(&row_of(&patched(&whole, "{\"schema\":", "{\"scheme\":")), "invalid", "manifest");
    assert_unusable(&row_of(&patched(&whole, "qhost.manifest/1", "qhost.manifest/9")), "invalid", "qhost.manifest/9");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_of_another_machine_is_a_row_with_a_reason() {
    let mut bytes = fs::read(plugin("gguf")).unwrap();
    // e_machine of the ELF header: 0xf3 is RISC-V.
    bytes[18..20].copy_from_slice(&[0xf3, 0]);
    assert_unusable(&row_of(&bytes), "invalid", "not for this machine");
}

#[test]
fn a_plugin_for_another_api_is_named_and_refused() {
    let whole = fs::read(plugin("gguf")).unwrap();
    let row = row_of(&patched(&whole, "\"api\":\"^1.0\"", "\"api\":\"^2.0\""));
    assert_unusable(&row, "incompatible", "plugin API ^2.0, this qhost speaks 1.0.0");
    assert_eq!(row["id"], "gguf");
    let row = row_of(&patched(&whole, "abi_stable-0.11", "abi_stable-0.12"));
    assert_unusable(&row, "incompatible", "abi_stable-0.12");

    let folder = tempfile::tempdir().unwrap();
    let bytes = patched(&fs::read(test_plugin("misbehave")).unwrap(), "\"api\":\"^1.0\"", "\"api\":\"^9.9\"");
    fs::write(folder.path().join(library_name("misbehave")), bytes).unwrap();
    let arguments = ["plan", "--format", "rows", "--plugin-dir"];
    let error = Qhost::new(arguments).arg(folder.path()).arg(fixture("stories260K")).fail_with(7);
    assert!(error["hint"].as_str().unwrap().contains("plugin API ^9.9"), "{error}");
}

#[test]
fn of_two_copies_the_first_is_used_and_the_other_reported() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = library_name("misbehave");
    for folder in [&one, &two] {
        fs::copy(test_plugin("misbehave"), folder.path().join(&name)).unwrap();
    }
    let list = |first: &Path, second: &Path| {
        Qhost::new(["plugins", "list", "--plugin-dir"]).arg(first).arg("--plugin-dir").arg(second).json()
    };
    for (first, second) in [(one.path(), two.path()), (two.path(), one.path())] {
        let document = list(first, second);
        let rows = document["plugins"].as_array().unwrap();
        assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&"ok".into(), &"shadowed".into()), "{document}");
        assert!(rows[1]["reason"].as_str().unwrap().contains(first.to_str().unwrap()), "{document}");
    }
    // The same folder twice is one folder.
    let rows = list(one.path(), one.path())["plugins"].as_array().unwrap().len();
    let distributed = fs::read_dir(dist().join("plugins")).unwrap().count();
    assert_eq!(rows, 1 + distributed, "misbehave and those of the distribution");
}

#[test]
fn plugins_are_found_through_the_environment_and_the_user_s_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("qhost").join("plugins");
    fs::create_dir_all(&data).unwrap();
    fs::copy(test_plugin("misbehave"), data.join(library_name("misbehave"))).unwrap();
    let ids = |document: Value| {
        let rows = document["plugins"].as_array().unwrap().clone();
        rows.into_iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let list = || Qhost::new(["plugins", "list"]);
    assert!(ids(list().env("XDG_DATA_HOME", folder.path()).json()).contains(&"misbehave".into()));
    assert!(ids(list().env("QHOST_PLUGIN_PATH", &data).json()).contains(&"misbehave".into()));
    // Never the working directory, not even by a relative entry.
    let here = list().env("QHOST_PLUGIN_PATH", ".").in_folder(&data);
    assert!(!ids(here.json()).contains(&"misbehave".into()));
}

#[test]
fn a_plugin_folder_that_is_not_there_is_an_error() {
    let error = Qhost::new(["plugins", "list", "--plugin-dir", "no/such/folder"]).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("no/such/folder"), "{error}");
}

#[test]
fn a_format_that_nobody_brings_names_those_that_are_there() {
    let error = Qhost::new(["plan", "--format", "exl9"]).arg(fixture("stories260K")).fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("exl9"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("gguf"), "{error}");
}
