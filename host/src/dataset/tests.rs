//! Files in every form, and what becomes of them.

use std::{fs, path::PathBuf};

use super::*;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(path)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::of_folder(&fixture("tinylm")).unwrap().unwrap()
}

/// A folder for data, and settings that reach no hub.
struct Case {
    folder: tempfile::TempDir,
    hub: Settings,
    cancel: CancelFlag,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hub = Settings {
            endpoint: "http://localhost:1".into(),
            token: None,
            cache: folder.path().join("hub"),
            offline: true,
            timeout: std::time::Duration::from_secs(1),
            certificates: None,
        };
        Self { folder, hub, cancel: CancelFlag::default() }
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn request<'a>(&'a self, name: Option<&'a str>) -> Request<'a> {
        Request { name, vocabulary: Some(4096), hub: &self.hub, cancel: &self.cancel }
    }

    fn samples(&self, name: &str, samples: usize, seq_len: usize) -> Result<Samples, Error> {
        calibration(&self.request(Some(name)), Sampling { samples, seq_len, seed: 0 }, Some(&tokenizer()))
    }

    fn evaluation(&self, name: &str) -> Result<Tokens, Error> {
        evaluation(&self.request(Some(name)), Some(&tokenizer())).map(|evaluation| evaluation.tokens)
    }
}

#[test]
fn rows_of_tokens_are_used_as_they_are_and_need_no_tokenizer() {
    let case = Case::new();
    let name =
        case.file("rows.jsonl", "{\"input_ids\": [3, 1, 2]}\n\n{\"input_ids\": [4095]}\n{\"input_ids\": [5, 6]}\n");
    let sampling = Sampling { samples: 2, seq_len: 2, seed: 7 };
    let samples = calibration(&case.request(Some(&name)), sampling, None).unwrap();
    assert_eq!(samples.rows, [vec![3, 1, 2], vec![4095]]);
    let Description { source, rows, tokens, seed, sha256 } = samples.description;
    assert_eq!((source, rows, tokens, seed), (name.clone(), 2, 4, None));
    // `printf '\3\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0\0\0\0\0\377\17\0\0' | sha256sum`
    assert_eq!(sha256, SHA256_OF_ROWS);
    assert!(samples.warnings.is_empty(), "{:?}", samples.warnings);

    let more = calibration(&case.request(Some(&name)), Sampling { samples: 9, ..sampling }, None).unwrap();
    assert_eq!((more.rows.len(), more.warnings.len()), (3, 1));
    assert!(more.warnings[0].contains("3 of the 9"), "{}", more.warnings[0]);
    let evaluation = evaluation(&case.request(Some(&name)), None).unwrap();
    assert_eq!(evaluation.tokens, Tokens::Rows(more.rows));
}

const SHA256_OF_ROWS: &str = "912cb033c936ac0010b300c2a43e627ec9137249b203b40e2f4b695d66b083d4";

#[test]
fn a_token_that_the_model_does_not_have_is_told_with_its_line() {
    let case = Case::new();
    let name = case.file("rows.jsonl", "{\"input_ids\": [3]}\n{\"input_ids\": [1, 4096]}\n");
    let error = case.samples(&name, 2, 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{name}:2: the token 4096 is none of the model's, which are those below 4096")
    );
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    // What is not used is not looked at.
    assert!(case.samples(&name, 1, 2).is_ok());
    // The same by the tokenizer.
    let text = case.file("a.txt", "a text");
    let request = Request { vocabulary: Some(10), ..case.request(Some(&text)) };
    let error = evaluation(&request, Some(&tokenizer())).unwrap_err();
    assert!(matches!(error, Error::TokenizerBeyond { vocabulary: 10, .. }), "{error}");
}

#[test]
fn rows_that_are_wrong_are_told_with_their_line() {
    let case = Case::new();
    for (text, words) in [
        ("{\"input_ids\": [1]}\n{\"text\": \"a\"}\n", ":2: a row of text among rows of input_ids"),
        ("{\"text\": \"a\"}\n{\"input_ids\": [1]}\n", ":2: a row of input_ids among rows of text"),
        ("{\"text\": \"a\"}\n{\"texts\": \"a\"}\n", ":2: it has none of text, messages and input_ids"),
        ("{\"text\": \"a\"}\n\n{\"text\": }\n", ":3: expected value (column 10)"),
        ("{\"input_ids\": []}\n", ":1: input_ids is empty"),
        ("{\"input_ids\": [-1]}\n", ":1: invalid value"),
        ("[1]\n", ":1: "),
    ] {
        let name = case.file("rows.jsonl", text);
        let error = case.samples(&name, 9, 4).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{name}{words}")), "{error}");
        assert_eq!((error.exit_code(), error.hint().is_some()), (ExitCode::Corrupt, true));
    }
    let path = case.folder.path().join("latin.txt");
    fs::write(&path, b"gr\xfc\xdfe").unwrap();
    let error = case.samples(path.to_str().unwrap(), 1, 4).unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { at: 2, .. }), "{error}");
    let empty = case.file("empty.txt", "");
    assert!(matches!(case.samples(&empty, 1, 4).unwrap_err(), Error::Empty { .. }));
    let absent = case.folder.path().join("absent.txt");
    assert_eq!(case.samples(absent.to_str().unwrap(), 1, 4).unwrap_err().exit_code(), ExitCode::NotFound);
    let packed = case.file("rows.jsonl.gz", "x");
    assert_eq!(case.samples(&packed, 1, 4).unwrap_err().exit_code(), ExitCode::Unsupported);
    assert_eq!(case.samples(&empty, 0, 4).unwrap_err().exit_code(), ExitCode::Usage);
    assert_eq!(case.samples(&empty, 1, 1).unwrap_err().exit_code(), ExitCode::Usage);
    let text = case.file("a.txt", "a text");
    let error = evaluation(&case.request(Some(&text)), None).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Unsupported);
}

#[test]
fn an_evaluation_takes_a_text_as_it_is_and_joins_rows() {
    let case = Case::new();
    let tokens = |text: &str| Tokens::Text(tokenizer().encode(text, true).unwrap());
    let text = case.file("a.txt", " One .\n\n Two .\r\n");
    assert_eq!(case.evaluation(&text).unwrap(), tokens(" One .\n\n Two .\r\n"));
    let rows = case.file("a.jsonl", "{\"text\": \" One .\\n\"}\n{\"text\": \"\"}\n{\"text\": \" Two .\"}\n");
    assert_eq!(case.evaluation(&rows).unwrap(), tokens(" One .\n\n\n\n\n Two ."));
}

#[test]
fn conversations_go_through_the_template() {
    let case = Case::new();
    let rows = case.file(
        "chat.jsonl",
        r#"{"messages": [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]}"#,
    );
    let expected = tokenizer().encode("user: Two?\nassistant: 2\n", false).unwrap();
    assert_eq!(case.evaluation(&rows).unwrap(), Tokens::Rows(vec![expected.clone()]));
    assert_eq!(case.samples(&rows, 1, expected.len()).unwrap().rows, [expected]);
    // Without a template there is no text.
    let bare = Tokenizer::of_texts(&fs::read_to_string(fixture("tinylm/tokenizer.json")).unwrap(), None).unwrap();
    let error = evaluation(&case.request(Some(&rows)), Some(&bare)).unwrap_err();
    assert_eq!((error.exit_code(), error.hint().is_some()), (ExitCode::Unsupported, true));
}

/// The files were written by pyarrow; see the README beside them.
#[test]
fn columns_are_rows_too() {
    let case = Case::new();
    let path = |name: &str| fixture("text").join(name).to_str().unwrap().to_owned();
    let lines = [
        "",
        " = A heading = \n",
        "",
        " The first paragraph , with ünïcode . \n",
        " The second one follows it . \n",
        "",
    ];
    let tokens = |text: String| Tokens::Text(tokenizer().encode(&text, true).unwrap());
    assert_eq!(case.evaluation(&path("lines.snappy.parquet")).unwrap(), tokens(lines.join("\n\n") + "\n\n"));
    assert_eq!(case.evaluation(&path("lines.zstd.parquet")).unwrap(), tokens(lines[3..5].join("\n\n")));
    let conversations = ["user: What is two and two?\nassistant: Four.\n", "user: And three?\n"];
    let conversations = conversations.map(|text| tokenizer().encode(text, false).unwrap());
    assert_eq!(case.evaluation(&path("messages.parquet")).unwrap(), Tokens::Rows(conversations.to_vec()));
    assert_eq!(case.evaluation(&path("ids.parquet")).unwrap(), Tokens::Rows(vec![vec![1, 2, 3], vec![4, 5]]));
    let error = case.evaluation(&path("other.parquet")).unwrap_err();
    assert!(error.to_string().ends_with("it has image"), "{error}");
    let whole = fs::read(path("lines.snappy.parquet")).unwrap();
    for end in [0, 10, whole.len() / 2, whole.len() - 1] {
        let cut = case.folder.path().join("cut.parquet");
        fs::write(&cut, &whole[..end]).unwrap();
        assert_eq!(case.evaluation(cut.to_str().unwrap()).unwrap_err().exit_code(), ExitCode::Corrupt, "{end}");
    }
}

/// A file with one other byte is an error, or other data; the library panics at some of them.
#[test]
fn damaged_columns_never_panic() {
    let case = Case::new();
    let whole = fs::read(fixture("text/messages.parquet")).unwrap();
    let path = case.folder.path().join("damaged.parquet");
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xFF;
        fs::write(&path, bytes).unwrap();
        match files::read(
            std::slice::from_ref(&path),
            Limits { rows: 9, bytes: 1 << 20, vocabulary: None, joins: true },
        ) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.exit_code(), ExitCode::Corrupt, "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > whole.len() / 4);
}

#[test]
fn samples_depend_on_the_seed_and_on_nothing_else() {
    let case = Case::new();
    let line = |index: usize| format!("Line {index} of a text that is long enough to be cut into several pieces.\n");
    let text: String = (0..2000).map(line).collect();
    let name = case.file("a.txt", &text);
    let draw = |seed| {
        let sampling = Sampling { samples: 8, seq_len: 64, seed };
        calibration(&case.request(Some(&name)), sampling, Some(&tokenizer())).unwrap()
    };
    let samples = draw(0);
    assert!(samples.rows.len() == 8 && samples.rows.iter().all(|row| row.len() == 64));
    assert_eq!(samples, draw(0));
    assert_ne!(samples.rows, draw(1).rows);
    assert_eq!(samples.description.seed, Some(0));
    // The same on every machine: these are the numbers that this seed gave once.
    assert_eq!(&samples.description.sha256[..16], SHA256_OF_SAMPLES);
    assert!(samples.warnings.is_empty());
}

const SHA256_OF_SAMPLES: &str = "192e297eb43f19f4";

#[test]
fn where_the_tokenizer_adds_a_bos_every_row_begins_with_it() {
    let case = Case::new();
    let name = case.file("a.txt", &"Once upon a time there was a mill. ".repeat(100));
    let tokenizer = Tokenizer::of_folder(&fixture("stories260K")).unwrap().unwrap();
    assert!(tokenizer.adds_bos() && tokenizer.bos() == Some(1));
    let sampling = Sampling { samples: 5, seq_len: 32, seed: 0 };
    let samples = calibration(&case.request(Some(&name)), sampling, Some(&tokenizer)).unwrap();
    assert!(samples.rows.len() == 5 && samples.rows.iter().all(|row| row[0] == 1 && row.len() == 32));
    let tokens: Vec<u32> = samples.rows.iter().flat_map(|row| row[1..].to_vec()).collect();
    assert_eq!(tokens[..], tokenizer.encode(&"Once upon a time there was a mill. ".repeat(100), false).unwrap()[..155]);
}

#[test]
fn without_a_hub_the_built_in_text_stands_in_for_the_default() {
    let case = Case::new();
    let sampling = Sampling { samples: 128, seq_len: 16, seed: 0 };
    let samples = calibration(&case.request(None), sampling, Some(&tokenizer())).unwrap();
    assert_eq!(samples.description.source, BUILT_IN_NAME);
    assert!(!samples.rows.is_empty() && samples.warnings[0].contains("HF_HUB_OFFLINE"), "{:?}", samples.warnings);
    // A data set that was named is not replaced by another.
    let error = case.samples("acme/prose", 1, 4).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NotFound);
    assert!(matches!(calibration(&case.request(None), sampling, None).unwrap_err(), Error::NoTokenizer));
}
