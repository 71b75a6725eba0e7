//! Models of a hub: what is asked of it, what the cache holds afterwards, and that the output is that of a local
//! folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::Qhost,
    hub::{MockHub, Repo, Wrong, git_blob, sha256},
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "hf_TopSecretOfTheTests";
pub(crate) const ID: &str = "acme/tiny";

/// A hub with a model in three shards, the same model as a folder, and a cache of its own.
pub(crate) struct Case {
    pub(crate) hub: MockHub,
    pub(crate) folder: TempDir,
}

impl Case {
    pub(crate) fn new() -> Self {
        Self::with(3, |repo| repo)
    }

    pub(crate) fn with(shards: usize, change: impl FnOnce(Repo) -> Repo) -> Self {
        Self::of(&RandomLlama { shards, ..RandomLlama::default() }, change)
    }

    pub(crate) fn of(llama: &RandomLlama, change: impl FnOnce(Repo) -> Repo) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny");
        llama.write(&model);
        fs::create_dir(model.join("additional_chat_templates")).unwrap();
        fs::write(model.join("additional_chat_templates/tool.jinja"), "{{ tool }}").unwrap();
        let repo = Repo::of_folder(ID, &model).with("README.md", "read me").with("original/consolidated.00.pth", "old");
        let repo =
            repo.with("pytorch_model.bin", "old, too").with("onnx/model.onnx", "other").with("logo.png", "picture");
        Self { hub: MockHub::start(change(repo)), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.path("hf/hub/models--acme--tiny")
    }

    pub(crate) fn commit() -> String {
        "c0ffee00".repeat(5)
    }

    /// A command with the settings of this case.
    pub(crate) fn qhost(&self, command: &str, model: &str) -> Qhost {
        self.with_settings(
            Qhost::new([command, model, "--format", "gguf", "--level", "Q4_K_M", "-o"]).arg(self.path("out")),
        )
    }

    pub(crate) fn with_settings(&self, qhost: Qhost) -> Qhost {
        let qhost = qhost.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", self.hub.endpoint());
        qhost.env("HF_HOME", self.path("hf")).in_folder(self.folder.path().parent().unwrap())
    }

    pub(crate) fn quantize(&self) -> Qhost {
        self.qhost("quantize", ID)
    }

    /// The bytes that the local folder gives.
    pub(crate) fn expected(&self) -> Vec<u8> {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_K_M", "-o"]).arg(self.path("local"));
        let result = qhost.arg(self.path("tiny")).json();
        fs::read(result["output_path"].as_str().unwrap()).unwrap()
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.path("out/tiny-Q4_K_M.gguf")
    }

    /// Names of blobs that have not arrived whole.
    pub(crate) fn partials(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.repository().join("blobs")).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "incomplete")).collect()
    }
}

fn weights(shard: usize) -> String {
    format!("model-{shard:05}-of-00003.safetensors")
}

#[test]
fn a_model_of_a_hub_gives_the_bytes_of_the_folder() {
    let case = Case::new();
    let result = case.quantize().json();
    assert!(fs::read(case.output()).unwrap() == case.expected());
    let commit = Case::commit();
    assert_eq!(result["source"], format!("{ID}@{commit}").as_str(), "{result}");
    assert_eq!(result["hub"]["revision"], "main");
    assert_eq!(result["output_path"], case.output().to_str().unwrap());
    let snapshot = case.repository().join("snapshots").join(&commit);
    assert_eq!(result["source_path"], snapshot.canonicalize().unwrap().to_str().unwrap());

    // Each file was fetched once, from where it lies, and nothing that is not needed.
    let seen = case.hub.seen();
    let fetched: Vec<_> =
        seen.iter().filter(|seen| seen.is_transfer() && seen.path.contains("tiny/resolve/")).collect();
    assert_eq!(fetched.len(), 9, "{fetched:?}");
    for unwanted in ["consolidated", "pytorch_model", "onnx", "logo"] {
        assert!(!seen.iter().any(|seen| seen.path.contains(unwanted)), "{unwanted}");
    }
}

/// Byte for byte the layout of `huggingface_hub`, whose own reading of it was tried by hand.
#[cfg(unix)]
#[test]
fn the_cache_is_laid_out_as_that_of_huggingface_hub() {
    let case = Case::new();
    let _ = case.quantize().json();
    let repository = case.repository();
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), Case::commit());
    let snapshot = repository.join("snapshots").join(Case::commit());
    for name in ["config.json", "additional_chat_templates/tool.jinja", &weights(1), "model.safetensors.index.json"] {
        let bytes = fs::read(case.path("tiny").join(name)).unwrap();
        let checksum = if bytes.len() < 16 << 10 { git_blob(&bytes) } else { sha256(&bytes) };
        let up = if name.contains('/') { "../../../" } else { "../../" };
        let target = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(target, Path::new(&format!("{up}blobs/{checksum}")), "{name}");
        assert!(fs::read(repository.join("blobs").join(checksum)).unwrap() == bytes, "{name}");
    }
    assert!(case.partials().is_empty());
    assert!(case.path("hf/hub/.locks/models--acme--tiny").is_dir());
}

#[test]
fn a_plan_fetches_headers_and_no_weights() {
    let case = Case::new();
    let plan = case.qhost("plan", ID).json();
    let local = Qhost::new(["plan", "--format", "gguf", "--level", "Q4_K_M"]).arg(case.path("tiny")).json();
    assert_eq!((&plan["tensors"], &plan["file_size"]), (&local["tensors"], &local["file_size"]));
    let weights = case.hub.bytes_of(".safetensors");
    assert_eq!(plan["download_bytes"], weights, "{plan}");
    let seen = case.hub.seen();
    assert!(seen.iter().filter(|seen| seen.path.ends_with(".safetensors")).all(|seen| seen.sent <= 128 << 10));
    assert!(case.partials().is_empty() && !case.path("out").exists());
    // The small files are there now, and are not fetched again.
    let _ = case.qhost("plan", ID).json();
    assert!(!case.hub.seen().iter().any(|seen| seen.path.contains(".json")));
    let human = case.qhost("plan", ID).succeed().stdout;
    assert!(human.contains("would be downloaded") && human.contains(&Case::commit()), "{human}");
}

#[test]
fn what_cannot_work_is_refused_before_weights_are_fetched() {
    let refused = |case: &Case, qhost: Qhost, code, words: &[&str]| {
        let error = qhost.fail_with(code);
        for word in words {
            assert!(format!("{}{}", error["message"], error["hint"]).contains(word), "{word}: {error}");
        }
        let seen = case.hub.seen();
        assert!(!seen.iter().any(|seen| seen.is_transfer() && seen.path.ends_with(".safetensors")), "{seen:?}");
        assert!(case.partials().is_empty() && !case.path("out").exists());
    };
    let case = Case::new();
    refused(
        &case,
        case.with_settings(Qhost::new(["quantize", ID, "--format", "gguf", "--level", "Q9_X"])),
        4,
        &["Q9_X"],
    );
    refused(&case, case.quantize().arg("--max-memory=1KiB"), 6, &["--max-memory"]);
    let case = Case::with(1, |repo| repo.with("config.json", r#"{"model_type": "nonesuch"}"#));
    refused(&case, case.quantize(), 4, &["nonesuch"]);
    let case = Case::with(1, |repo| repo.without("model.safetensors"));
    refused(&case, case.quantize(), 4, &["pytorch_model.bin", "save_pretrained", ID]);
    let case = Case::with(1, |repo| repo.without("config.json"));
    refused(&case, case.quantize(), 4, &["config.json", ID]);
    let case = Case::with(3, |repo| repo.without(&weights(2)));
    refused(&case, case.quantize(), 5, &["acme/tiny/model-00002-of-00003.safetensors", "missing"]);
    // A header that lies is found in the plan, and told of by the file's name on the hub.
    let case = Case::with(1, |repo| {
        let mut bytes = repo.files["model.safetensors"].clone();
        bytes[8] = b'!';
        repo.with("model.safetensors", bytes)
    });
    refused(&case, case.quantize(), 5, &["acme/tiny/model.safetensors", "header"]);
}

#[test]
fn a_warm_cache_needs_no_hub() {
    let case = Case::new();
    let offline = || case.quantize().env("HF_HUB_OFFLINE", "true").arg("--force");
    let error = offline().fail_with(3);
    assert!(error["hint"].as_str().unwrap().contains("HF_HUB_OFFLINE"), "{error}");
    let _ = case.qhost("plan", ID).json();
    let error = offline().fail_with(3);
    assert!(error["message"].as_str().unwrap().contains("acme/tiny/model-00001-of-00003.safetensors"), "{error}");
    assert!(!case.path("out").exists());
    let online = case.quantize().json();
    let bytes = fs::read(case.output()).unwrap();
    let _ = case.hub.seen();
    let result = offline().json();
    assert!(fs::read(case.output()).unwrap() == bytes);
    assert_eq!((&result["source"], &result["source_path"]), (&online["source"], &online["source_path"]));
    assert!(case.hub.seen().is_empty(), "no request at all");
    // Nor need the cache be one that can be written to.
    fs::remove_dir_all(case.path("hf/hub/.locks")).unwrap();
    fs::write(case.path("hf/hub/.locks"), "").unwrap();
    // With the hub at hand, it is asked for the list, and for nothing else.
    let _ = case.quantize().arg("--force").json();
    let seen = case.hub.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.path.starts_with("/api/")), "{seen:?}");
}

#[test]
fn a_hub_that_is_out_of_reach_is_done_without_if_the_cache_has_all() {
    let case = Case::new();
    let _ = case.quantize().json();
    let nobody =
        case.quantize().env("HF_ENDPOINT", "http://127.0.0.1:9").arg("--force").args(["-q", "--json"]).succeed();
    let warnings = nobody.document()["warnings"].to_string();
    assert!(warnings.contains("127.0.0.1:9") && warnings.contains("cache"), "{nobody:?}");
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let (other, pull) = ("b".repeat(40), "d".repeat(40));
    let case = Case::with(1, |mut repo| {
        repo.revisions = [("v1.0".to_owned(), other.clone()), ("refs/pr/1".to_owned(), pull.clone())].into();
        repo
    });
    let source = |revision: &str| case.qhost("plan", ID).args(["--revision", revision]).json()["source"].clone();
    assert_eq!(source("v1.0"), format!("{ID}@{other}").as_str());
    assert_eq!(source("refs/pr/1"), format!("{ID}@{pull}").as_str());
    assert_eq!(fs::read_to_string(case.repository().join("refs/refs/pr/1")).unwrap(), pull);
    let _ = case.hub.seen();
    assert_eq!(source(&other), format!("{ID}@{other}").as_str());
    assert!(!case.hub.seen().iter().any(|seen| seen.path.contains("/revision/")), "a commit needs no asking");
    assert!(!case.repository().join("refs").join(&other).exists());
    let error = case.qhost("plan", ID).args(["--revision", "nonesuch"]).fail_with(3);
    assert!(error["message"].as_str().unwrap().contains("nonesuch"), "{error}");
    let error = case.qhost("plan", ID).args(["--revision", "../../../x"]).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("--revision"), "{error}");
    let error = case.qhost("plan", case.path("tiny").to_str().unwrap()).args(["--revision", "main"]).fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("local folder"), "{error}");
}

#[test]
fn a_local_folder_comes_first_unless_the_hub_is_meant() {
    let case = Case::with(1, |repo| repo);
    let org = case.path("acme");
    fs::create_dir(&org).unwrap();
    fs::rename(case.path("tiny"), org.join("tiny")).unwrap();
    let in_folder = |model: &str| case.qhost("plan", model).in_folder(case.folder.path()).json()["source"].clone();
    assert!(in_folder(ID).as_str().unwrap().ends_with("acme/tiny"));
    assert!(case.hub.seen().is_empty());
    assert_eq!(in_folder("hf://acme/tiny"), format!("{ID}@{}", Case::commit()).as_str());
    let error = case.qhost("plan", "acme/typo").in_folder(case.folder.path()).fail_with(3);
    assert!(error["hint"].as_str().unwrap().contains("hf://"), "{error}");
}

#[test]
fn a_hub_below_a_path_with_long_lists_works() {
    let case = Case::with(1, |repo| repo);
    let repo = Repo::of_folder(ID, &case.path("tiny"));
    let hub = MockHub::start_with(repo, "/mirror/hf", 2);
    let endpoint = format!("{}/", hub.endpoint());
    let _ = case.quantize().env("HF_ENDPOINT", endpoint).json();
    assert!(fs::read(case.output()).unwrap() == case.expected());
    let pages = hub.seen().iter().filter(|seen| seen.path.contains("/tree/")).count();
    assert!(pages > 3, "{pages}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let case = Case::new();
    let log = case.path("log");
    let ended = case.quantize().env("HF_TOKEN", TOKEN).args(["-vv", "--json", "--log-file"]).arg(&log).succeed();
    let seen = case.hub.seen();
    let bearer = format!("Bearer {TOKEN}");
    assert!(seen.iter().any(|seen| seen.storage) && seen.iter().any(|seen| !seen.storage));
    for seen in &seen {
        let expected = (!seen.storage).then_some(bearer.as_str());
        assert_eq!(seen.authorization.as_deref(), expected, "{seen:?}");
    }
    case.hub.spoil("/api/", 99, Wrong::Status(401, Vec::new(), r#"{"error": "Invalid credentials"}"#));
    let refused = case.quantize().env("HF_TOKEN", TOKEN).args(["-vv", "--force", "--log-file"]).arg(&log).run();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("Invalid credentials") && refused.stderr.contains("HF_TOKEN"), "{refused:?}");
    let mut texts = vec![ended.stdout, ended.stderr, refused.stdout, refused.stderr, fs::read_to_string(&log).unwrap()];
    assert!(texts[4].contains("GET http"), "requests are logged: {}", texts[4]);
    assert!(!texts[4].contains("s3cret"), "signatures are not");
    texts.extend(
        ["out/qhost-report.json", "out/tiny-Q4_K_M.gguf"]
            .map(|name| String::from_utf8_lossy(&fs::read(case.path(name)).unwrap()).into_owned()),
    );
    assert!(texts.iter().all(|text| !text.contains(TOKEN)));

    // The file of `hf auth login` will do, and an invalid one is refused without being shown.
    fs::write(case.path("hf/token"), format!("{TOKEN}\n")).unwrap();
    case.hub.heal();
    let _ = case.qhost("plan", ID).arg("--force").json();
    assert!(case.hub.seen().iter().all(|seen| seen.storage || seen.authorization.as_deref() == Some(&bearer)));
    let error: Value = case.qhost("plan", ID).env("HF_TOKEN", "hf_Se cret").fail_with(2);
    assert!(!error.to_string().contains("Se cret"), "{error}");
}

/// `huggingface_hub` keeps the list of a commit's files, which never changes.
#[test]
fn a_commit_whose_list_is_kept_needs_no_hub() {
    let case = Case::new();
    let _ = case.quantize().json();
    let mut files = serde_json::Map::new();
    for name in ["config.json", "tokenizer.model", "tokenizer_config.json", "model.safetensors.index.json"]
        .map(str::to_owned)
        .into_iter()
        .chain((1..=3).map(weights))
    {
        let bytes = fs::read(case.path("tiny").join(&name)).unwrap();
        let mut file = serde_json::json!({"size": bytes.len(), "blob_id": git_blob(&bytes)});
        if bytes.len() >= 16 << 10 {
            file["lfs_sha256"] = sha256(&bytes).into();
            file["lfs_size"] = bytes.len().into();
        }
        files.insert(name, file);
    }
    let trees = case.repository().join("trees");
    fs::create_dir(&trees).unwrap();
    let kept = serde_json::json!({"format_version": 1, "files": files});
    fs::write(trees.join(format!("{}.json", Case::commit())), kept.to_string()).unwrap();
    let _ = case.hub.seen();
    let plan = case.qhost("plan", ID).args(["--force", "--revision", &Case::commit()]).json();
    assert_eq!(plan["download_bytes"], 0, "{plan}");
    assert!(case.hub.seen().is_empty());
}

#[test]
fn a_header_that_is_longer_than_most_is_fetched_whole() {
    let case = Case::with(1, |repo| {
        let bytes = &repo.files["model.safetensors"];
        let end = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
        let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
        header["__metadata__"] = serde_json::json!({"notes": "long ".repeat(100_000)});
        let header = header.to_string();
        let longer = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[end..]].concat();
        repo.with("model.safetensors", longer)
    });
    let plan = case.qhost("plan", ID).json();
    assert_eq!(plan["download_bytes"], case.hub.bytes_of(".safetensors"), "{plan}");
    let sent = case.hub.seen().iter().filter(|seen| seen.storage).map(|seen| seen.sent).sum::<usize>();
    assert!(sent < 1 << 20, "{sent}");
    let _ = case.quantize().json();
    assert!(fs::read(case.output()).unwrap() == case.expected());
}
