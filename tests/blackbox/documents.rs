//! host/REPORT.md against the documents: every key that there is has a line there, of the right type, and every
//! line has a key.
#![expect(clippy::panic, reason = "a page without its section, or a key without its line, fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::{Qhost, test_plugin},
    fixture, repository,
};
use serde_json::Value;

/// The keys that a section documents, with their types.
struct Documented(BTreeMap<String, String>);

impl Documented {
    /// The tables of the sections with these titles, together.
    fn of(titles: &[&str]) -> Self {
        let page = fs::read_to_string(repository().join("host/REPORT.md")).unwrap();
        let mut keys = BTreeMap::new();
        for title in titles {
            let section = page
                .split("\n#")
                .find(|section| section.trim_start_matches('#').lines().next() == Some(&format!(" {title}")));
            let section = section.unwrap_or_else(|| panic!("no section {title}"));
            for row in section.lines().filter(|line| line.starts_with("| `")) {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                let known = keys.insert(cells[1].trim_matches('`').to_owned(), cells[2].to_owned());
                assert_eq!((cells.len(), known), (6, None), "{row}");
            }
        }
        Self(keys)
    }

    /// Checks documents against the section; all of its keys have to be in one of them at least.
    fn holds_for(&self, documents: &[Value]) {
        let mut seen = BTreeSet::new();
        for document in documents {
            self.walk("", document, &mut seen);
        }
        // Further keys of a message are there or not.
        // These models are no hub's and not converted; tests of hubs and of conversions look at what is told then.
        let elsewhere = |key: &str| key == "*" || ["hub.", "conversion.", "loss"].iter().any(|of| key.starts_with(of));
        let unseen: Vec<_> = self.0.keys().filter(|key| !elsewhere(key) && !seen.contains(*key)).collect();
        assert!(unseen.is_empty(), "documented, and in no document: {unseen:?}");
    }

    fn walk(&self, path: &str, value: &Value, seen: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let dot = if path.is_empty() { "" } else { "." };
                    let (named, any) = (format!("{path}{dot}{key}"), format!("{path}{dot}*"));
                    let known = [named.clone(), any].into_iter().find(|path| self.0.contains_key(path));
                    let path = known.unwrap_or_else(|| panic!("{named} is not documented"));
                    let kind = &self.0[&path];
                    assert!(is(value, kind), "{path} is documented as {kind}, and is {value}");
                    seen.insert(path.clone());
                    self.walk(&path, value, seen);
                }
            }
            Value::Array(list) => {
                for item in list.iter().filter(|item| item.is_object()) {
                    self.walk(&format!("{path}[]"), item, seen);
                }
            }
            _ => {}
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    let (kind, nullable) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    match kind {
        _ if value.is_null() => nullable,
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.as_array().is_some_and(|list| list.iter().all(Value::is_object)),
        "list of string" => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        "any" => true,
        other => panic!("no such type: {other}"),
    }
}

fn gguf(command: &str, model: &Path, level: &str, output: &Path) -> Qhost {
    Qhost::new([command, "--format", "gguf", "--level", level, "-o"]).arg(output).arg(model)
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("qhost-report.json")).unwrap()).unwrap()
}

/// The plugin for tests, with every option that there is.
fn rows(command: &str, folder: &Path) -> Qhost {
    let qhost = Qhost::new([command, "--format", "rows", "--bits=32", "--group-size=-1", "--sym", "--desc-act"]);
    let qhost = qhost
        .args([
            "--plugin-option=a=b",
            "--imatrix=auto",
            "--tensor-type=a=b",
            "--effort=fast",
            "--max-size=1GiB",
            "--max-memory=1GiB",
            "-o",
        ])
        .arg(folder)
        .arg(fixture("stories260K"));
    qhost.arg("--plugin-dir").arg(test_plugin("misbehave").parent().unwrap())
}

/// A run that goes on where another one failed, and leaves a tensor out.
fn resumed(folder: &Path) -> (Value, Value, Vec<Value>) {
    let run = |behave: &str| rows("quantize", folder).arg("--json").env("QHOST_BEHAVE", behave).run();
    assert_eq!(run("unused-fails").code, Some(5), "the third unit fails");
    let ended = run("unused");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    (ended.document(), report(folder), lines(&ended.stderr))
}

fn lines(stderr: &str) -> Vec<Value> {
    stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_conversion_is_told_with_keys_that_are_documented() {
    let folder = tempfile::tempdir().unwrap();
    let made = gguf("quantize", &fixture("tinylm"), "Q4_K_M", folder.path()).json();
    let source = Path::new(made["output_path"].as_str().unwrap());
    let convert = |level: &str, output: &str| gguf("convert", source, level, &folder.path().join(output)).arg("--yes");
    let plan = convert("Q4_0", "a").arg("--dry-run").json();
    assert!(plan["conversion"]["classes"].as_array().unwrap().len() > 2, "{plan}");
    Documented::of(&["qhost.run-plan/1"]).walk("", &plan, &mut BTreeSet::new());
    let result = convert("Q4_0", "a").json();
    Documented::of(&["Result and report", "qhost.result/1"]).walk("", &result, &mut BTreeSet::new());
    Documented::of(&["Result and report", "qhost.report/1"]).walk(
        "",
        &report(&folder.path().join("a")),
        &mut BTreeSet::new(),
    );
}

#[test]
fn the_page_and_the_documents_have_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let model = fixture("stories260K");

    let observed = |command: &str| {
        let qhost = Qhost::new([command, "--format=observe", "--samples=2", "--seq-len=16", "-o"]).arg(out("d"));
        let qhost = qhost.arg("--plugin-dir").arg(test_plugin("observe").parent().unwrap()).arg(&model);
        qhost.arg("--calibration").arg(fixture("text").join("prose.txt"))
    };
    let calibrated = observed("plan").json();
    assert!(observed("quantize").json()["output_path"].is_string());
    let report_of_calibrated = report(&out("d"));
    let plan = gguf("plan", &model, "Q4_K_M", &out("a")).json();
    let left_out = rows("plan", &out("b")).env("QHOST_BEHAVE", "unused").json();
    let provisional = rows("plan", &out("b")).env("QHOST_BEHAVE", "survey").json();
    Documented::of(&["qhost.run-plan/1"]).holds_for(&[plan, left_out, calibrated, provisional]);

    let result = gguf("quantize", &model, "Q4_K_M", &out("a")).json();
    let (of_resumed, report_of_resumed, events) = resumed(&out("b"));
    assert!(of_resumed["resumed"].is_object(), "{of_resumed}");
    Documented::of(&["Result and report", "qhost.result/1"]).holds_for(&[result, of_resumed]);
    Documented::of(&["Result and report", "qhost.report/1"]).holds_for(&[
        report(&out("a")),
        report_of_resumed,
        report_of_calibrated,
    ]);

    let text = fixture("text").join("prose.txt");
    let eval = || Qhost::new(["eval", "--ctx=64", "--windows=2", "--dataset"]).arg(&text).arg(&model);
    let compared =
        eval().arg("--against").arg(out("a").join("stories260K-Q4_K_M.gguf")).arg("--html").arg(out("page.html"));
    Documented::of(&["qhost.evaluation/1"]).holds_for(&[eval().json(), compared.json()]);

    let refused = gguf("plan", &model, "none", &out("c")).fail_with(4);
    let usage = Qhost::new(["quantise"]).fail_with(2);
    Documented::of(&["qhost.error/1"]).holds_for(&[refused, usage]);

    let of = |event: &str| events.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<_>>();
    Documented::of(&["resuming"]).holds_for(&of("resuming"));
    let measured = rows("quantize", &out("e")).env("QHOST_BEHAVE", "survey").arg("--json").succeed();
    for event in ["surveying", "chosen"] {
        let lines: Vec<_> = lines(&measured.stderr).into_iter().filter(|line| line["event"] == event).collect();
        assert_eq!(lines.len(), 1, "{event}");
        Documented::of(&[event]).holds_for(&lines);
    }
}

#[test]
fn several_outputs_are_told_of_with_the_keys_of_each_and_those_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let both = |command: &str| {
        let qhost = Qhost::new([command, "--json", "--format=gguf=Q8_0,rows", "-o"]).arg(folder.path());
        let qhost = qhost.arg(fixture("stories260K")).env("QHOST_BEHAVE", "survey");
        qhost.arg("--plugin-dir").arg(test_plugin("misbehave").parent().unwrap()).succeed()
    };
    // The documents of the outputs have a section of their own.
    let parted = |mut document: Value, of_one: &[&str]| {
        let outputs = document["outputs"].take();
        let outputs = outputs.as_array().unwrap();
        assert_eq!(outputs.len(), 2);
        for output in outputs {
            Documented::of(of_one).walk("", output, &mut BTreeSet::new());
        }
        document["outputs"] = Value::Array(Vec::new());
        document
    };
    let plans = parted(both("plan").document(), &["qhost.run-plan/1"]);
    Documented::of(&["qhost.run-plans/1"]).holds_for(&[plans]);
    let ended = both("quantize");
    let results = parted(ended.document(), &["Result and report", "qhost.result/1"]);
    Documented::of(&["qhost.results/1"]).holds_for(&[results]);
    let measured: Vec<_> = lines(&ended.stderr).into_iter().filter(|line| line["event"] == "surveying").collect();
    assert_eq!(measured[0]["run"], "rows f32", "{ended:?}");
    Documented::of(&["surveying", "lines of one of several"]).holds_for(&measured);
}

#[test]
fn the_page_and_the_lines_of_progress_have_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("slow");
    RandomLlama { layers: 6, ffn: 2048, hidden: 1024, heads: 8, ..RandomLlama::default() }.write(&model);
    let text = fixture("text").join("prose.txt");
    // A run that takes its time.
    let qhost = gguf("quantize", &fixture("tinylm"), "Q4_K_M", folder.path()).arg("--calibration").arg(&text);
    let qhost = qhost.args(["--effort=best", "--json", "--threads=1", "-v"]);
    let ended = qhost.env("QHOST_PLUGIN_PATH", "relative").succeed();
    let small = gguf("quantize", &fixture("stories260K"), "Q4_K_M", folder.path()).arg("--json").succeed();
    let all: Vec<_> = lines(&ended.stderr).into_iter().chain(lines(&small.stderr)).collect();
    let eval =
        Qhost::new(["eval", "--json", "--threads=1", "--windows=3", "--dataset"]).arg(&text).arg(&model).succeed();
    let of_eval = lines(&eval.stderr);
    assert!(!of_eval.is_empty() && of_eval.iter().all(|line| line["event"] == "progress"), "{of_eval:?}");
    Documented::of(&["progress of eval"]).holds_for(&of_eval);

    let known = ["progress", "warning", "log"];
    for event in known {
        let lines: Vec<_> = all.iter().filter(|line| line["event"] == event).cloned().collect();
        assert!(!lines.is_empty(), "{event}");
        Documented::of(&[event]).holds_for(&lines);
    }
    assert!(all.iter().all(|line| known.contains(&line["event"].as_str().unwrap())));
}
