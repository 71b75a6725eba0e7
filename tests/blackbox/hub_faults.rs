//! Hubs, networks and caches that fail: every fault ends with the right bytes, or with a message, a hint and the
//! exit code, and never with half a file under its final name.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use qhost_tests::hub::{Wrong, sha256};
use serde_json::Value;

use crate::hub::{Case, ID, TOKEN};

/// A large file, which is in storage, and its path there.
const WEIGHTS: &str = "model-00002-of-00003.safetensors";
const IN_STORAGE: &str = "/storage/model-00002-of-00003.safetensors";

fn status(status: u16) -> Wrong {
    Wrong::Status(status, Vec::new(), "")
}

/// No output, and whatever has its final name in the cache is whole.
fn nothing_half_done(case: &Case) {
    assert!(!case.output().exists());
    let blobs = fs::read_dir(case.repository().join("blobs")).into_iter().flatten().flatten();
    for blob in blobs.map(|entry| entry.path()).filter(|path| path.extension().is_none()) {
        let (name, bytes) = (blob.file_name().unwrap().to_str().unwrap(), fs::read(&blob).unwrap());
        assert!(name.len() == 40 || name == sha256(&bytes), "{}", blob.display());
    }
    let work = case.path("out/tiny-Q4_K_M.gguf.partial");
    assert!(!work.exists(), "no work was begun");
}

/// Seconds after which nothing is expected to come any more; less than that may pass between two parts where the hub of the
/// test has to share a core.
const TIMEOUT: &str = "4";

fn fails(case: &Case, code: i32, words: &[&str]) -> Value {
    let error = case.quantize().env("HF_HUB_DOWNLOAD_TIMEOUT", TIMEOUT).fail_with(code);
    for word in words {
        assert!(format!("{} | {}", error["message"], error["hint"]).contains(word), "{word}: {error}");
    }
    nothing_half_done(case);
    error
}

fn succeeds(case: &Case) {
    let _ = case.quantize().env("HF_HUB_DOWNLOAD_TIMEOUT", TIMEOUT).arg("--force").json();
    assert!(fs::read(case.output()).unwrap() == case.expected());
    assert!(case.partials().is_empty());
}

#[test]
fn faults_that_pass_are_waited_for() {
    let case = Case::new();
    case.hub.spoil("/api/", 1, status(503));
    case.hub.spoil("/api/", 1, Wrong::Status(429, vec![("retry-after", "1".into())], ""));
    case.hub.spoil("config.json", 1, Wrong::CutAfter(10));
    case.hub.spoil("/resolve/", 2, status(500));
    // Headers, then weights: cut, silent, and a server that begins anew.
    case.hub.spoil(IN_STORAGE, 1, Wrong::CutAfter(100));
    case.hub.spoil(IN_STORAGE, 1, Wrong::StallAfter(1000));
    case.hub.spoil_transfers(IN_STORAGE, 1, status(502));
    succeeds(&case);
}

#[test]
fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let case = Case::new();
    let _ = case.qhost("plan", ID).json();
    let _ = case.hub.seen();
    case.hub.spoil_transfers(IN_STORAGE, 1, Wrong::CutAfter(100_000));
    case.hub.spoil_transfers(IN_STORAGE, 1, Wrong::StallAfter(50_000));
    succeeds(&case);
    let seen = case.hub.seen();
    let transfers: Vec<_> = seen.iter().filter(|seen| seen.path == IN_STORAGE && seen.is_transfer()).collect();
    let sent: usize = transfers.iter().map(|seen| seen.sent).sum();
    let whole = fs::read(case.path("tiny").join(WEIGHTS)).unwrap().len();
    assert_eq!(sent, whole, "nothing was sent twice: {transfers:?}");
}

#[test]
fn servers_without_ranges_are_coped_with() {
    let case = Case::new();
    // Even for headers, of which the rest is not waited for.
    case.hub.spoil("/storage/", 99, Wrong::NoRanges);
    let _ = case.qhost("plan", ID).json();
    case.hub.heal();
    case.hub.spoil_transfers(IN_STORAGE, 1, Wrong::CutAfter(70_000));
    case.hub.spoil_transfers(IN_STORAGE, 1, Wrong::NoRanges);
    succeeds(&case);
}

#[test]
fn refusals_are_told_in_words() {
    let case = Case::new();
    let gated =
        |status| Wrong::Status(status, vec![("x-error-code", "GatedRepo".into())], r#"{"error": "Ask for it"}"#);
    let licence = format!("{}/{ID}", case.hub.endpoint());
    for code in [401, 403] {
        case.hub.spoil("/resolve/", 1, gated(code));
        fails(&case, 3, &["gated", "Ask for it", &licence, "set HF_TOKEN"]);
        case.hub.heal();
    }
    let hidden = Wrong::Status(401, vec![("x-error-code", "RepoNotFound".into())], "");
    case.hub.spoil("/api/", 1, hidden);
    fails(&case, 3, &["no model acme/tiny", "private", "HF_TOKEN"]);
    case.hub.spoil("/api/", 1, status(401));
    fails(&case, 3, &["acme/tiny", "set HF_TOKEN"]);
    case.hub.spoil("/api/", 1, status(403));
    let error = case.quantize().env("HF_TOKEN", TOKEN).fail_with(3);
    assert!(error["hint"].as_str().unwrap().contains("your token"), "{error}");
    case.hub.spoil("/api/", 1, Wrong::Status(418, Vec::new(), r#"{"error": "I am a teapot"}"#));
    fails(&case, 3, &["418", "teapot"]);
    let error = case.qhost("quantize", "acme/other").fail_with(3);
    let words = error["message"].as_str().unwrap();
    assert!(words.contains("acme/other") && words.contains(&case.hub.endpoint()), "{error}");
    case.hub.spoil(WEIGHTS, 9, Wrong::Status(404, vec![("x-error-code", "EntryNotFound".into())], ""));
    fails(&case, 3, &["acme/tiny/model-00002", "lists it"]);
}

#[test]
fn faults_that_stay_are_told_in_words() {
    let case = Case::new();
    case.hub.spoil("/api/", 99, Wrong::Status(429, vec![("retry-after", "0".into())], ""));
    fails(&case, 3, &["429", "wait"]);
    case.hub.heal();
    case.hub.spoil("/api/", 99, Wrong::Status(503, Vec::new(), r#"{"error": "down for repairs"}"#));
    fails(&case, 3, &["503", "down for repairs", "same command again"]);
    case.hub.heal();
    case.hub.spoil("/api/", 99, Wrong::Body("<html>hotel wifi</html>".into()));
    fails(&case, 5, &["the revision", "proxy"]);
    case.hub.heal();
    let listing = |path: &str, oid: &str| {
        Wrong::Body(format!(r#"[{{"type": "file", "path": "{path}", "oid": "{oid}", "size": 1}}]"#))
    };
    case.hub.spoil("/tree/", 1, listing("config.json", "x"));
    fails(&case, 5, &["no checksum of config.json"]);
    case.hub.spoil("/tree/", 1, listing("../../config.json", &"a".repeat(40)));
    fails(&case, 4, &["has no config.json"]);
    case.hub.spoil("/api/", 99, Wrong::Status(503, Vec::new(), r#"{"error": "\u001b[2J gone"}"#));
    let ended = case.quantize().run();
    assert!(ended.code == Some(3) && ended.stderr.contains("gone") && !ended.stderr.contains('\u{1b}'), "{ended:?}");
    case.hub.heal();
    // The first request for it is for the header.
    case.hub.spoil(IN_STORAGE, 99, Wrong::StallAfter(0));
    fails(&case, 3, &[WEIGHTS, "same command again"]);
}

/// Only the weights are bad, not the headers: the plan is fine.
fn spoil_weights(case: &Case, times: usize, wrong: Wrong) {
    case.hub.spoil_transfers(IN_STORAGE, times, wrong);
}

#[test]
fn bytes_that_lie_are_found_out() {
    let case = Case::new();
    spoil_weights(&case, 99, Wrong::Damaged);
    let error = fails(&case, 5, &[WEIGHTS, "checksum", "deleted"]);
    assert!(error["message"].as_str().unwrap().contains("twice"), "{error}");
    assert!(!case.partials().iter().any(|path| path.to_str().unwrap().contains(WEIGHTS)));
    case.hub.heal();
    spoil_weights(&case, 1, Wrong::Damaged);
    succeeds(&case);

    let case = Case::new();
    spoil_weights(&case, 99, Wrong::Shorter(1000));
    fails(&case, 5, &[WEIGHTS, "listing says"]);
    let case = Case::new();
    spoil_weights(&case, 99, Wrong::AnnouncesMore(1000));
    fails(&case, 5, &[WEIGHTS, "listing says"]);
    let case = Case::new();
    spoil_weights(&case, 1, Wrong::CutAfter(5000));
    case.hub.spoil_transfers(IN_STORAGE, 99, Wrong::OtherRange);
    fails(&case, 5, &[WEIGHTS, "part"]);
    case.hub.heal();
    succeeds(&case);

    // A small file, of which git's checksum is known.
    let case = Case::new();
    case.hub.spoil("/tokenizer_config.json", 1, Wrong::Damaged);
    succeeds(&case);
    let case = Case::new();
    case.hub.spoil("/tokenizer_config.json", 99, Wrong::Damaged);
    fails(&case, 5, &["tokenizer_config.json", "checksum"]);
}

/// A part that was damaged on the disk, such as by a power cut, is found out at the end and fetched anew.
#[test]
fn a_damaged_part_is_not_built_upon() {
    let case = Case::new();
    let _ = case.qhost("plan", ID).json();
    let bytes = fs::read(case.path("tiny").join(WEIGHTS)).unwrap();
    let partial = case.repository().join("blobs").join(format!("{}.incomplete", sha256(&bytes)));
    fs::write(&partial, vec![7; bytes.len() / 2]).unwrap();
    succeeds(&case);
    let case = Case::new();
    let _ = case.qhost("plan", ID).json();
    let partial = case.repository().join("blobs").join(format!("{}.incomplete", sha256(&bytes)));
    fs::write(&partial, vec![7; bytes.len() + 10]).unwrap();
    succeeds(&case);
}

#[test]
fn a_blob_that_was_cut_short_is_fetched_again() {
    let case = Case::new();
    let _ = case.quantize().json();
    let bytes = fs::read(case.path("tiny").join(WEIGHTS)).unwrap();
    let blob = case.repository().join("blobs").join(sha256(&bytes));
    OpenOptions::new().write(true).open(&blob).unwrap().set_len(1000).unwrap();
    fs::remove_file(case.output()).unwrap();
    succeeds(&case);
    assert!(fs::read(blob).unwrap() == bytes);
}

#[test]
fn networks_that_are_not_there() {
    let case = Case::new();
    let to = |endpoint: &str| case.quantize().env("HF_ENDPOINT", endpoint).fail_with(3);
    let error = to("http://127.0.0.1:9");
    let words = format!("{} {}", error["message"], error["hint"]);
    assert!(words.contains("127.0.0.1:9") && words.contains("refused") && words.contains("HTTPS_PROXY"), "{error}");
    assert!(words.contains("no folder `acme/tiny` here"), "{error}");
    let error = to("http://no-such-host.invalid");
    assert!(error["message"].as_str().unwrap().contains("no-such-host.invalid"), "{error}");
    // A server that does not speak TLS.
    let error = to(&case.hub.endpoint().replace("http:", "https:"));
    assert!(error["message"].as_str().unwrap().contains("secure connection"), "{error}");
    let error = case.quantize().env("HF_ENDPOINT", "huggingface.co").fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("HF_ENDPOINT"), "{error}");
    let error = case.quantize().env("HF_ENDPOINT", "https://me:hush@host").fail_with(2);
    assert!(!error.to_string().contains("hush"), "{error}");
    let error = case.quantize().env("SSL_CERT_FILE", "/no/such/file.pem").fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("SSL_CERT_FILE"), "{error}");
    nothing_half_done(&case);
}

#[test]
fn caches_that_cannot_be_written() {
    let case = Case::new();
    fs::write(case.path("hf"), "a file").unwrap();
    let error = case.quantize().fail_with(6);
    assert!(error["hint"].as_str().unwrap().contains("HF_HOME"), "{error}");
    assert!(!case.path("out").exists());
}

/// File systems of one mebibyte and of one page, where this user may make one.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_is_too_small_is_refused_in_the_plan_or_told_when_it_is_full() {
    let case = Case::new();
    let Some(full) = Small::mount(&case.path("small"), "1m") else { return };
    let error = case.quantize().env("HF_HUB_CACHE", full.0.join("hub")).fail_with(6);
    assert!(error["message"].as_str().unwrap().contains("download into"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("HF_HUB_CACHE"), "{error}");
    assert!(!case.hub.seen().iter().any(|seen| seen.is_transfer() && seen.path.ends_with(".safetensors")));
    assert!(!case.path("out").exists());
    let Some(full) = Small::mount(&case.path("smaller"), "4k") else { return };
    let error = case.quantize().env("HF_HUB_CACHE", full.0.join("hub")).fail_with(6);
    assert!(error["message"].as_str().unwrap().contains("No space left"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("free some space"), "{error}");
}

/// A small file system in memory.
#[cfg(target_os = "linux")]
struct Small(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Small {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .stderr(std::process::Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
