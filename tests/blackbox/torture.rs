//! Some of what `cargo xtask torture` does in full: faults at calls spread over a run, and kills at random instants.

use qhost_tests::{
    checkpoint::Random,
    torture::{Outcome, Subject},
};

/// Faults at so many calls, spread over all of them, and so many kills.
fn tortured(name: &str, faults: usize, kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let subject = Subject::new(name, folder.path()).unwrap();
    let all = subject.faults();
    let chosen: Vec<_> = (0..faults).map(|index| all[index * all.len() / faults].clone()).collect();
    let at_the_end = subject.kills_at_the_end();
    let outcomes: Vec<_> = chosen.iter().chain(&at_the_end).map(|fault| subject.suffer(fault)).collect();
    let complaints: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let of = |wanted: Outcome| outcomes.iter().filter(|outcome| **outcome == Ok(wanted)).count();
    assert!(of(Outcome::Refused) > faults / 3, "few faults came: {outcomes:?}");
    assert!(of(Outcome::Killed) > at_the_end.len() / 2, "few kills came: {outcomes:?}");
    let figures = subject.kill(kills, &mut Random(1)).unwrap();
    assert_eq!(figures.killed, kills);
    assert!(figures.finished > 1 && figures.with_work > 0, "{figures:?}");
}

#[test]
fn gguf_files_outlive_faults_and_kills() {
    tortured("gguf", 30, 10);
}

#[test]
fn gguf_files_with_importances_outlive_faults_and_kills() {
    tortured("gguf --imatrix auto", 10, 4);
}

#[test]
fn files_that_are_replaced_outlive_faults_and_kills() {
    tortured("gguf --force", 20, 6);
}

#[test]
fn gptq_folders_outlive_faults_and_kills() {
    tortured("gptq", 30, 10);
}

#[test]
fn gptq_folders_of_a_size_outlive_faults_and_kills() {
    tortured("gptq --max-size", 20, 10);
}

#[test]
fn folders_that_are_replaced_outlive_faults_and_kills() {
    tortured("gptq --force", 20, 6);
}

#[test]
fn awq_folders_outlive_faults_and_kills() {
    tortured("awq", 30, 10);
}

#[test]
fn awq_folders_of_two_shards_outlive_faults_and_kills() {
    tortured("awq, two shards", 20, 6);
}
