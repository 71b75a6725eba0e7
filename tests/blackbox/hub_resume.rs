//! Downloads that are killed, interrupted, or done by two processes at once.

use std::{
    fs,
    time::{Duration, Instant},
};

use qhost_tests::{checkpoint::RandomLlama, command::Qhost};
use serde_json::Value;

use crate::hub::{Case, ID};

/// Bytes that have arrived of files that are not whole.
fn arrived(case: &Case) -> u64 {
    case.partials().iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

fn weights_of(case: &Case) -> u64 {
    case.hub.bytes_of(".safetensors") as u64
}

/// Bytes of weights that were sent to be kept, that is, not only to be planned from.
fn transferred(case: &Case) -> u64 {
    let seen = case.hub.seen();
    let transfers =
        seen.iter().filter(|seen| seen.is_transfer() && seen.storage && seen.path.ends_with(".safetensors"));
    transfers.map(|seen| seen.sent as u64).sum()
}

/// Kills runs one after the other, each when a few more bytes have arrived, and lets the last one finish.
#[test]
fn a_download_killed_again_and_again_goes_on_each_time() {
    let case = Case::new();
    let whole = weights_of(&case);
    case.hub.slow_down(Duration::from_millis(4));
    for kill in 1..=6 {
        let (mut child, _home) = case.quantize().start();
        let began = Instant::now();
        let blobs = |case: &Case| {
            let names = case.repository().join("snapshots").join(Case::commit());
            let files = fs::read_dir(names).into_iter().flatten().flatten().map(|entry| entry.path());
            let weights = files.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
            weights.filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum::<u64>()
        };
        while arrived(&case) + blobs(&case) < whole * kill / 7 {
            assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
            assert!(began.elapsed() < Duration::from_secs(120), "no progress");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!case.output().exists());
    }
    case.hub.slow_down(Duration::ZERO);
    let there = arrived(&case);
    assert!(there > 0);
    let plan = case.qhost("plan", ID).json();
    assert!(plan["download_bytes"].as_u64().unwrap() < whole - whole / 2, "{plan}");
    let _ = transferred(&case);
    let ended = case.quantize().arg("--json").succeed();
    assert_eq!(transferred(&case), plan["download_bytes"].as_u64().unwrap(), "what was there was not fetched again");
    assert!(fs::read(case.output()).unwrap() == case.expected());
    assert!(case.partials().is_empty());
    let events: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.iter().rfind(|event| event["event"] == "download").unwrap();
    assert_eq!((&last["bytes_done"], &last["files_done"]), (&last["bytes"], &last["files"]), "{last}");
}

/// The work of the quantisation goes on, too, whether it was planned from headers or from the cache.
#[test]
fn a_run_killed_after_its_download_goes_on_from_its_journal() {
    // Large enough to be caught at it.
    let llama = RandomLlama { hidden: 512, ffn: 1536, layers: 10, heads: 8, shards: 3, ..RandomLlama::default() };
    let case = Case::of(&llama, |repo| repo);
    let journal = case.path("out/tiny-Q4_K_M.gguf.partial/journal");
    let (mut child, _home) = case.quantize().args(["--threads", "1"]).start();
    let began = Instant::now();
    // Planned from headers; killed as soon as something is in the journal.
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 3 {
        assert!(began.elapsed() < Duration::from_secs(120), "no progress");
        assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Planned from the cache, and without the hub.
    let result = case.quantize().env("HF_HUB_OFFLINE", "1").json();
    assert!(result["resumed"]["units_done"].as_u64().is_some_and(|done| done >= 1), "{result}");
    assert!(fs::read(case.output()).unwrap() == case.expected());
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_at_once_and_is_kept() {
    let case = Case::new();
    case.hub.spoil_transfers("/storage/", 99, qhost_tests::hub::Wrong::StallAfter(100_000));
    let output = case.path("stdout");
    let child = case.quantize().env("HF_HUB_DOWNLOAD_TIMEOUT", "500").arg("--json").start_into(&output);
    let began = Instant::now();
    while arrived(&case) < 300_000 {
        assert!(began.elapsed() < Duration::from_secs(60), "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(interrupt(child), Some(130));
    let error: Value = serde_json::from_slice(&fs::read(&output).unwrap()).unwrap();
    assert_eq!(error["code"], 130, "{error}");
    assert!(error["message"].as_str().unwrap().contains("kept in"), "{error}");
    assert_eq!(arrived(&case), 300_000);
    assert!(!case.path("out/tiny-Q4_K_M.gguf.partial").exists());
    case.hub.heal();
    let _ = case.quantize().json();
    assert!(fs::read(case.output()).unwrap() == case.expected());
}

/// While it plans, too, with a server that does not answer.
#[cfg(unix)]
#[test]
fn an_interrupted_plan_ends_at_once() {
    let case = Case::new();
    case.hub.spoil("/api/", 99, qhost_tests::hub::Wrong::StallAfter(0));
    let output = case.path("stdout");
    let child = case.qhost("plan", ID).env("HF_HUB_DOWNLOAD_TIMEOUT", "500").arg("--json").start_into(&output);
    let began = Instant::now();
    while case.hub.seen().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "no request");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(interrupt(child), Some(130));
    let error: Value = serde_json::from_slice(&fs::read(&output).unwrap()).unwrap();
    assert!(error["message"].as_str().unwrap().contains("interrupted"), "{error}");
}

/// Ctrl-C. The process may wait for a server that says nothing, and not until its time is over.
#[cfg(unix)]
fn interrupt(mut child: std::process::Child) -> Option<i32> {
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    child.wait().unwrap().code()
}

#[test]
fn two_processes_share_one_download() {
    let case = Case::new();
    case.hub.slow_down(Duration::from_millis(2));
    let (mut one, _home) = case.quantize().start();
    let other = Qhost::new(["quantize", ID, "--format", "gguf", "--level", "Q4_K_M", "-o"]).arg(case.path("other"));
    let (mut two, _other_home) = case.with_settings(other).start();
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    let expected = case.expected();
    assert!(fs::read(case.output()).unwrap() == expected);
    assert!(fs::read(case.path("other/tiny-Q4_K_M.gguf")).unwrap() == expected);
    assert_eq!(transferred(&case), weights_of(&case), "each file was fetched once");
    assert!(case.partials().is_empty());
}
