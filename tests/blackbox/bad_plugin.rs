//! Plugins that break the contract: the host lives, says who did what, and keeps finished work.

use std::{fs, path::Path};

use qhost_tests::{
    command::{Qhost, test_plugin},
    fixture,
};
use serde_json::Value;

fn rows(output: &Path, behave: &str) -> Qhost {
    let plugins = test_plugin("misbehave").parent().unwrap().to_owned();
    Qhost::new(["quantize", "--format", "rows", "--threads", "2", "--plugin-dir"])
        .arg(plugins)
        .arg("-o")
        .arg(output)
        .arg(fixture("stories260K"))
        .env("QHOST_BEHAVE", behave)
}

/// What the well-behaved plugin writes.
fn expected() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let result = rows(folder.path(), "well").json();
    assert_eq!(result["resumed"], Value::Null);
    fs::read(result["output_path"].as_str().unwrap()).unwrap()
}

#[test]
fn a_well_behaved_third_party_plugin_makes_its_format() {
    let bytes = expected();
    assert_eq!(&bytes[..8], b"ROWS-F32");
    let source = fs::read(fixture("stories260K").join("model.safetensors")).unwrap();
    let header = usize::try_from(u64::from_le_bytes(source[..8].try_into().unwrap())).unwrap();
    assert_eq!(bytes.len() - 8, source.len() - 8 - header, "an f32 checkpoint keeps its size");
}

#[test]
fn a_failure_in_the_midst_keeps_what_was_done_and_the_next_run_goes_on() {
    let expected = expected();
    for (behave, code, words) in [
        ("panic-unit", 7, "told to panic in a unit"),
        ("panic-loop", 7, "told to panic in a loop"),
        ("fail", 5, "some.tensor: told to fail"),
        ("short", 7, "did not write all of"),
        ("twice", 7, "did not write all of"),
        ("past-end", 7, "past the end"),
        ("other-unit", 7, "not of this unit"),
        ("no-such-rows", 7, "not in the source"),
        ("no-such-segment", 7, "not of this unit"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = rows(folder.path(), behave).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(words), "{behave}: {error}");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["stories260K.rows.partial"], "{behave}");
        let result = rows(folder.path(), "well").json();
        // Units 0 and 1 were done; the third failed.
        assert_eq!(result["resumed"]["units_done"], 2, "{behave}: {result}");
        assert_eq!(result["resumed"]["from"], "layer 2 of 5", "{behave}: {result}");
        assert_eq!(fs::read(result["output_path"].as_str().unwrap()).unwrap(), expected, "{behave}");
    }
}

/// The SDK's types forbid it, and the border does not: a unit's object is used in the unit after it.
#[test]
fn a_unit_that_has_ended_answers_nothing() {
    let expected = expected();
    for isolated in [&[][..], &["--isolate"]] {
        for behave in ["late-lease", "late-write", "late-save", "late-load"] {
            let folder = tempfile::tempdir().unwrap();
            let error = rows(folder.path(), behave).args(isolated).fail_with(7);
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("it used a unit after that unit's end"), "{behave} {isolated:?}: {error}");
            assert!(!folder.path().join("stories260K.rows").exists(), "{behave} {isolated:?}");
            let result = rows(folder.path(), "well").json();
            assert_eq!(result["resumed"]["units_done"], 1, "{behave} {isolated:?}: {result}");
            assert!(fs::read(result["output_path"].as_str().unwrap()).unwrap() == expected, "{behave} {isolated:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let ended = rows(folder.path(), "late-words").args(isolated).arg("--output-format=json").succeed();
        let result: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert!(fs::read(result["output_path"].as_str().unwrap()).unwrap() == expected, "{isolated:?}");
        assert!(!ended.stdout.contains("\"late\"") && !ended.stderr.contains("\"late\""), "{isolated:?}: {ended:?}");
    }
}

/// A plan that depends on what units save: they are asked once, and what they wrote is what is planned of it.
#[test]
fn a_plan_that_follows_a_survey_is_held_against_what_was_said_before_it() {
    let expected = expected();
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "survey-fails").fail_with(5);
    assert!(error["message"].as_str().unwrap().contains("told to fail while measuring"), "{error}");
    let ended = rows(folder.path(), "survey").arg("--json").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Units 0 and 1 were measured; the third failed.
    let told = |event: &str| {
        let events = ended.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.into_iter().find(|told| told["event"] == event)
    };
    assert_eq!(told("surveying").unwrap()["units_done"], 2, "{ended:?}");
    assert_eq!(told("chosen").unwrap()["file_size"], expected.len(), "{ended:?}");
    assert_eq!(fs::read(ended.document()["output_path"].as_str().unwrap()).unwrap(), expected);
    for (behave, words) in [
        ("survey-again", "provisional again"),
        ("survey-renames", "another name"),
        ("survey-large", "are the most"),
        ("survey-binary", "what is no text"),
        ("survey-writes", "only measures wrote"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = rows(folder.path(), behave).fail_with(7);
        assert!(error["message"].as_str().unwrap().contains(words), "{behave}: {error}");
        // What was measured is kept, and the plan is made of it without measuring again.
        let result = rows(folder.path(), "survey").json();
        assert_eq!(fs::read(result["output_path"].as_str().unwrap()).unwrap(), expected, "{behave}");
    }
}

/// What is told of a plan before it is measured.
#[test]
fn a_plan_that_is_provisional_says_so() {
    let plugins = test_plugin("misbehave").parent().unwrap().to_owned();
    let plan = |behave: &str| {
        let plan = Qhost::new(["plan", "--format", "rows", "--plugin-dir"]).arg(&plugins);
        plan.arg(fixture("stories260K")).env("QHOST_BEHAVE", behave).json()
    };
    let (provisional, other) = (plan("survey"), plan("well"));
    assert_eq!((&provisional["provisional"], &other["provisional"]), (&true.into(), &false.into()));
    assert_eq!((&provisional["size_limit"], &other["size_limit"]), (&other["file_size"], &Value::Null));
}

/// Units that depend on one another are made again from the first damaged one on, each with what the
/// units before it saved.
#[test]
fn a_chain_of_units_is_taken_up_where_it_is_sound() {
    type Damage = fn(&Path);
    let expected = expected();
    let damage: [(&str, Damage); 4] = [
        ("nothing", |_| {}),
        ("bytes of unit 2", |work| {
            let output = work.join("files").join("output");
            let mut bytes = fs::read(&output).unwrap();
            let at = bytes.iter().rposition(|&byte| byte != 0).unwrap();
            // Units are in the order of the file, and 4 of 6 are done.
            bytes[at * 2 / 3] ^= 1;
            fs::write(&output, bytes).unwrap();
        }),
        ("what unit 1 saved", |work| fs::write(work.join("saved").join("1-0"), "rubbish").unwrap()),
        ("what unit 0 saved", |work| fs::remove_file(work.join("saved").join("0-0")).unwrap()),
    ];
    for (what, damage) in damage {
        let folder = tempfile::tempdir().unwrap();
        let failed = rows(folder.path(), "chain-fails").env("QHOST_BEHAVE_UNIT", "4").fail_with(5);
        assert!(failed["message"].as_str().unwrap().contains("told to fail"), "{failed}");
        damage(&folder.path().join("stories260K.rows.partial"));
        let result = rows(folder.path(), "chain").json();
        let done = result["resumed"]["units_done"].as_u64().unwrap_or(0);
        let fits = match what {
            "nothing" => done == 4,
            "bytes of unit 2" => (1..4).contains(&done),
            "what unit 1 saved" => done == 1,
            _ => done == 0,
        };
        assert!(fits, "{what}: {result}");
        assert_eq!(fs::read(result["output_path"].as_str().unwrap()).unwrap(), expected, "{what}");
    }
}

/// The plugin looks at the flag from time to time, and stops.
#[cfg(unix)]
#[test]
fn a_plugin_at_work_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _home) = rows(folder.path(), "hang").start();
    let journal = folder.path().join("stories260K.rows.partial").join("journal");
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let sent = std::process::Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(rows(folder.path(), "well").json()["resumed"]["units_done"], 2);
}

#[test]
fn panics_outside_of_units_are_contained_too() {
    for (behave, words) in [
        ("panic-open", "told to panic while planning"),
        ("panic-constant", "told to panic over the header"),
        ("panic-check", "told to panic in the check"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = rows(folder.path(), behave).fail_with(7);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words) && message.contains("lib.rs:"), "{behave}: {error}");
        assert!(error["hint"].as_str().unwrap().contains("misbehave"), "{behave}: {error}");
        assert!(!folder.path().join("stories260K.rows").exists());
    }
}

#[test]
fn a_refusal_by_the_plugin_is_told_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "refuse").fail_with(4);
    assert_eq!(error["message"], "told to refuse");
    assert_eq!(error["hint"], "ask for something else");
}

#[test]
fn plans_that_cannot_be_carried_out_are_refused_before_anything_is_written() {
    for (behave, code, words) in [
        ("plan-overlap", 7, "overlaps"),
        ("plan-drop", 7, "drops model.norm.weight"),
        ("plan-escape", 7, "suffix"),
        ("plan-huge", 6, "free"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = rows(folder.path(), behave).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(words), "{behave}: {error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{behave}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "plan-memory").arg("--max-memory=1GiB").fail_with(6);
    assert!(error["hint"].as_str().unwrap().contains("--max-memory"), "{error}");
}

#[test]
fn memory_beyond_the_ceiling_is_not_granted() {
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "greedy").arg("--max-memory=100MiB").fail_with(6);
    assert!(error["message"].as_str().unwrap().contains("everything needs"), "{error}");
}

#[test]
fn headers_of_another_length_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "constant-short").fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("3 bytes for header"), "{error}");
}

#[test]
fn an_output_that_fails_its_check_is_not_put_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let error = rows(folder.path(), "check-fails").fail_with(8);
    assert!(error["message"].as_str().unwrap().contains("header"), "{error}");
    assert!(!folder.path().join("stories260K.rows").exists());
}

#[test]
fn what_a_plugin_logs_reaches_the_user_who_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let ended = rows(folder.path(), "well").arg("-v").succeed();
    assert!(ended.stderr.contains("misbehave speaks through tracing"), "{ended:?}");
    let ended = rows(folder.path(), "well").arg("--force").succeed();
    assert!(!ended.stderr.contains("misbehave speaks"), "{ended:?}");
}

/// What a plugin tells of files is held against them; one that cannot compare is told so.
#[test]
fn a_reader_that_lies_or_panics_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let made = rows(folder.path(), "well").arg("--no-report").json()["output_path"].as_str().unwrap().to_owned();
    let plugins = test_plugin("misbehave").parent().unwrap().to_owned();
    let look = |command: &str, behave: &str| {
        Qhost::new([command, &made]).arg("--plugin-dir").arg(&plugins).env("QHOST_BEHAVE", behave)
    };
    assert_eq!(look("inspect", "well").json()["tensors"][0]["name"], "all");
    let told = look("verify", "well").json();
    assert!(told["warnings"].to_string().contains("were not looked at"), "{told}");
    for (command, behave, code, words) in [
        ("inspect", "read-absent", 7, "has no reader/1"),
        ("inspect", "read-outside", 7, "outside of the files"),
        ("inspect", "read-panic", 7, "told to panic while reading"),
        ("inspect", "read-not-mine", 4, "in no format"),
        ("verify", "numbers-panic", 7, "told to panic over F32"),
    ] {
        let error = look(command, behave).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(words), "{behave}: {error}");
    }
    let error = look("verify", "well").arg("--against").arg(fixture("stories260K")).fail_with(7);
    assert!(error["message"].as_str().unwrap().contains("`misbehave` cannot compare"), "{error}");
}
