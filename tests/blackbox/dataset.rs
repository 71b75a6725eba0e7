//! Data sets of a hub: which files are asked for, where they lie afterwards, and what stands in for them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use qhost::{
    cancel::CancelFlag,
    dataset::{self, Error, Evaluation, Request, Sampling, Tokenizer, Tokens},
    exit_code::{ExitCode, Fault as _},
    hub::Settings,
};
use qhost_tests::{
    fixture,
    hub::{MockHub, Repo, Wrong, git_blob},
};
use tempfile::TempDir;

const ID: &str = "acme/prose";

/// A hub with a data set in two configurations, and a cache of its own.
struct Case {
    hub: MockHub,
    cache: TempDir,
}

impl Case {
    fn new(repo: Repo) -> Self {
        // Small pages, so that there are several.
        Self { hub: MockHub::start_with(repo, "", 2), cache: tempfile::tempdir().unwrap() }
    }

    fn prose() -> Self {
        let columns = fs::read(fixture("text/lines.zstd.parquet")).unwrap();
        let repo = Repo::dataset(ID).with("README.md", "read me").with("en/dataset_info.json", "{}");
        let repo = repo.with("en/train-00000-of-00001.parquet", columns.clone());
        let repo = repo.with("en/test-00000-of-00001.parquet", columns);
        Self::new(repo.with("de/train.jsonl", "{\"input_ids\": [1, 2]}\n").with("de/test.txt", "ein Text"))
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.endpoint(),
            token: None,
            cache: self.cache.path().to_owned(),
            offline: false,
            timeout: Duration::from_secs(5),
            certificates: None,
        }
    }

    fn evaluation(&self, name: Option<&str>) -> Result<Evaluation, Error> {
        evaluation(name, &self.settings())
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("datasets--acme--prose")
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::of_folder(&fixture("tinylm")).unwrap().unwrap()
}

fn evaluation(name: Option<&str>, hub: &Settings) -> Result<Evaluation, Error> {
    let cancel = CancelFlag::default();
    dataset::evaluation(&Request { name, vocabulary: None, hub, cancel: &cancel }, Some(&tokenizer()))
}

fn fetched(case: &Case) -> Vec<String> {
    let seen = case.hub.seen();
    seen.iter().filter_map(|seen| Some(seen.path.split_once("/resolve/")?.1.to_owned())).collect()
}

#[test]
fn a_split_is_fetched_into_the_cache_and_taken_from_there() {
    let case = Case::prose();
    let commit = "c0ffee00".repeat(5);
    let found = case.evaluation(Some("acme/prose:en")).unwrap();
    let expected = " The first paragraph , with ünïcode . \n\n\n The second one follows it . \n";
    assert_eq!(found.tokens, Tokens::Text(tokenizer().encode(expected, true).unwrap()));
    assert_eq!(found.description.source, format!("acme/prose:en@{commit}"));
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    assert_eq!(fetched(&case), [format!("{commit}/en/test-00000-of-00001.parquet")]);

    // The layout of huggingface_hub.
    let file = case.repository().join("snapshots").join(&commit).join("en/test-00000-of-00001.parquet");
    let blob = git_blob(&fs::read(fixture("text/lines.zstd.parquet")).unwrap());
    assert_eq!(fs::canonicalize(&file).unwrap().file_name().unwrap().to_str(), Some(blob.as_str()));
    assert_eq!(fs::read_to_string(case.repository().join("refs/main")).unwrap(), commit);

    // Once more, with the hub and without it.
    assert_eq!(case.evaluation(Some("acme/prose:en/test")).unwrap().tokens, found.tokens);
    assert!(fetched(&case).is_empty());
    let offline = Settings { offline: true, ..case.settings() };
    assert_eq!(evaluation(Some("acme/prose:en"), &offline).unwrap().tokens, found.tokens);
    assert!(case.hub.seen().is_empty());
    let error = evaluation(Some("acme/prose:de"), &offline).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NotFound, "{error}");
    let nowhere = Settings { endpoint: "http://localhost:1".into(), ..case.settings() };
    assert_eq!(evaluation(Some("acme/prose:en"), &nowhere).unwrap().tokens, found.tokens);
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let case = Case::prose();
    for (name, code, words) in [
        (ID, ExitCode::Usage, "acme/prose has several configurations: "),
        ("acme/prose:fr", ExitCode::Usage, "acme/prose has no files for fr"),
        ("acme/prose:en/validation", ExitCode::Usage, "there are en/test and en/train"),
        ("acme/none", ExitCode::NotFound, "there is no data set acme/none on http://"),
    ] {
        let error = case.evaluation(Some(name)).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().is_some());
    }
    case.hub.spoil("/resolve/", 9, Wrong::Damaged);
    let error = case.evaluation(Some("acme/prose:en")).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt, "{error}");
}

#[test]
fn rows_of_tokens_of_a_hub_are_rows() {
    let case = Case::new(Repo::dataset(ID).with("train.jsonl", "{\"input_ids\": [1, 2]}\n{\"input_ids\": [3]}\n"));
    let (hub, cancel) = (case.settings(), CancelFlag::default());
    let request = Request { name: Some(ID), vocabulary: Some(4), hub: &hub, cancel: &cancel };
    let samples = dataset::calibration(&request, Sampling { samples: 5, seq_len: 8, seed: 0 }, None).unwrap();
    assert_eq!(samples.rows, [vec![1, 2], vec![3]]);
}

#[test]
fn the_default_is_wikitext_or_else_the_built_in_text() {
    let wikitext = "wikitext-2-raw-v1/test-00000-of-00001.parquet";
    let columns = fs::read(fixture("text/lines.zstd.parquet")).unwrap();
    let case = Case::new(Repo::dataset("Salesforce/wikitext").with(wikitext, columns));
    let found = case.evaluation(None).unwrap();
    assert!(found.description.source.starts_with("Salesforce/wikitext:wikitext-2-raw-v1/test@"));
    assert!(found.warnings.len() == 1 && found.warnings[0].contains("Salesforce/wikitext"), "{:?}", found.warnings);

    let nothing = Case::prose();
    let found = nothing.evaluation(None).unwrap();
    assert_eq!(found.description.source, "built-in text");
    assert!(found.warnings.iter().any(|warning| warning.contains("built-in text")), "{:?}", found.warnings);
    assert!(!Path::new(&nothing.cache.path().join("datasets--Salesforce--wikitext/snapshots")).exists());
    let nowhere = Settings { endpoint: "http://localhost:1".into(), ..nothing.settings() };
    assert_eq!(evaluation(None, &nowhere).unwrap().tokens, found.tokens);
}
