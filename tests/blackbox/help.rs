//! The help of every command, kept as one file: whoever changes it sees it change.

use std::fs;

use qhost_tests::{command::Qhost, repository};

const COMMANDS: [&[&str]; 16] = [
    &[],
    &["quantize"],
    &["convert"],
    &["plan"],
    &["inspect"],
    &["verify"],
    &["eval"],
    &["plugins"],
    &["plugins", "list"],
    &["plugins", "info"],
    &["plugins", "check"],
    &["plugins", "install"],
    &["plugins", "remove"],
    &["plugins", "new"],
    &["completions"],
    &["man"],
];

#[test]
fn help_is_as_it_was_agreed() {
    let mut help = String::new();
    for command in COMMANDS {
        let ended = Qhost::new(command).arg("--help").succeed();
        help.extend(["## qhost ", &command.join(" "), "\n\n", &ended.stdout, "\n"]);
    }
    let golden = repository().join("tests").join("golden").join("help.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &help).unwrap();
    }
    let agreed = fs::read_to_string(&golden).unwrap();
    assert_eq!(help, agreed, "set UPDATE_GOLDEN=1 to accept the change");
}

#[test]
fn every_command_that_has_help_is_kept() {
    let main = Qhost::new(["--help"]).succeed().stdout;
    let listed = main.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    for line in listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(name == "help" || COMMANDS.iter().any(|command| command.first() == Some(&name)), "{name}");
    }
}

#[test]
fn usage_errors_are_told_in_words_and_in_json() {
    let ended = Qhost::new(["quantize"]).run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stdout.is_empty() && ended.stderr.contains("--format"), "{ended:?}");
    let document = Qhost::new(["quantize", "model", "--format", "gguf", "--no-such-option"]).fail_with(2);
    assert!(document["message"].as_str().unwrap().contains("--no-such-option"), "{document}");
    assert_eq!(document["schema"], "qhost.error/1");
}

#[test]
fn version_and_completions_are_data() {
    let version = Qhost::new(["--version"]).succeed();
    assert!(version.stdout.starts_with("qhost "), "{version:?}");
    let script = Qhost::new(["completions", "bash"]).succeed();
    assert!(script.stdout.contains("quantize") && script.stderr.is_empty(), "{script:?}");
}

#[test]
fn manual_pages_are_printed_or_written_for_every_command() {
    let page = Qhost::new(["man"]).succeed();
    assert!(page.stdout.contains(".TH qhost 1") && page.stdout.contains("Exit codes"), "{page:?}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Qhost::new(["man"]).arg(folder.path()).succeed().stdout, "");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("qhost-quantize.1").contains("tensor\\-type") && read("qhost-plugins-list.1").contains("qhost"));
    let missing = Qhost::new(["man"]).arg(folder.path().join("not there")).fail_with(6);
    assert!(missing["hint"].as_str().unwrap().contains("folder"), "{missing}");
}
