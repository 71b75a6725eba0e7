//! The model card: where it is written, what it takes over from the source's, and what it never tells.

use std::{fs, path::Path};

use qhost_tests::{
    checkpoint::copy_of,
    command::{Qhost, test_plugin},
    fixture,
};
use serde_json::Value;

fn quantize(model: &Path, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]).arg(output).arg(model)
}

/// The front matter as a YAML parser reads it, and the rest.
fn read(path: &Path) -> (Value, String) {
    let card = fs::read_to_string(path).unwrap();
    let (yaml, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    (serde_saphyr::from_str(yaml).unwrap(), body.to_owned())
}

#[test]
fn a_card_says_what_a_hub_asks_for_and_nothing_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let cache = folder.path().join("private-place/models--org--tiny/snapshots");
    let snapshot = cache.join(commit);
    fs::create_dir_all(&cache).unwrap();
    fs::rename(copy_of(&fixture("stories260K"), folder.path()), &snapshot).unwrap();
    let readme =
        "---\nlicense: mit\nlanguage:\n- en\n- no\ntags: [stories, safetensors]\npipeline_tag: text-generation\n---\n";
    fs::write(snapshot.join("README.md"), readme).unwrap();
    let token = "hf_abcdefghijklmnop";
    let result = quantize(&snapshot, folder.path()).env("HF_TOKEN", token).json();
    let card = folder.path().join(format!("{commit}-Q8_0.md"));
    assert_eq!(result["card_path"].as_str().unwrap(), card.to_str().unwrap());
    let (matter, body) = read(&card);
    for (key, value) in [
        ("base_model", "org/tiny".into()),
        ("base_model_relation", "quantized".into()),
        ("license", "mit".into()),
        ("language", serde_json::json!(["en", "no"])),
        ("tags", serde_json::json!(["stories", "gguf", "qhost"])),
        ("pipeline_tag", "text-generation".into()),
        ("library_name", "gguf".into()),
        ("quantized_by", "qhost".into()),
    ] {
        assert_eq!(matter[key], value, "{key}");
    }
    let bits = format!("{:.2}", result["bits_per_weight"].as_f64().unwrap());
    for words in
        [commit, "org/tiny", "`Q8_0`", &bits, "llama-cli -m", "qhost quantize org/tiny --format gguf --level Q8_0"]
    {
        assert!(body.contains(words), "{words}: {body}");
    }
    let report = fs::read_to_string(folder.path().join("qhost-report.json")).unwrap();
    assert!(!body.contains("private-place") && !body.contains(token) && !report.contains(token), "{body}");
}

#[test]
fn every_type_has_its_errors_in_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let _ = quantize(&fixture("stories260K"), folder.path()).json();
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
    let (_, body) = read(&folder.path().join("stories260K-Q8_0.md"));
    for encoding in report["encodings"].as_array().unwrap() {
        let name = encoding["encoding"].as_str().unwrap();
        let tensors = report["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["encoding"] == name);
        let errors = tensors.map(|tensor| tensor["metrics"]["relative_rms_error"].as_f64().unwrap());
        let worst = errors.fold(0.0, f64::max);
        let row = body.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        assert!(
            row.contains(&format!("| {} |", encoding["tensors"])) && row.contains(&format!("{worst:.5} (`")),
            "{row}"
        );
    }
}

#[test]
fn a_damaged_card_of_the_source_is_no_matter() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("tinylm"), folder.path());
    for (index, readme) in
        [b"---\nlicense: [\n---\n".as_slice(), b"\xff\xfe\x00", b"---\nlicense: mit\n"].into_iter().enumerate()
    {
        fs::write(model.join("README.md"), readme).unwrap();
        let output = folder.path().join(index.to_string());
        let result = quantize(&model, &output).json();
        // The plugin may tell that it took nothing from it; nothing else is amiss.
        let warnings = result["warnings"].as_array().unwrap();
        assert!(warnings.iter().all(|warning| warning.as_str().unwrap().starts_with("README.md ")), "{warnings:?}");
        assert_eq!(read(&output.join("tinylm-Q8_0.md")).0["license"], Value::Null);
    }
}

#[test]
fn force_makes_card_and_report_anew_and_other_files_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let (card, readme) = (folder.path().join("tinylm-Q8_0.md"), folder.path().join("README.md"));
    fs::write(&readme, "mine").unwrap();
    let _ = quantize(&model, folder.path()).json();
    let first = fs::read_to_string(&card).unwrap();
    fs::write(&card, first.replace("## Use", "## Old")).unwrap();
    fs::write(folder.path().join("qhost-report.json"), "{}").unwrap();
    let result = quantize(&model, folder.path()).arg("--force").json();
    assert_eq!(result["warnings"], Value::Array(Vec::new()));
    assert_eq!(fs::read_to_string(&card).unwrap(), first);
    let report = fs::read_to_string(folder.path().join("qhost-report.json")).unwrap();
    assert!(report.contains("qhost.report/1"), "{report}");

    // Notes of the user's, or the card of another output, stand where the card would be.
    for text in ["my notes", &first.replace("for tinylm-Q8_0.gguf", "for another.gguf")] {
        fs::write(&card, text).unwrap();
        let result = quantize(&model, folder.path()).arg("--force").json();
        assert_eq!((fs::read_to_string(&card).unwrap().as_str(), &result["card_path"]), (text, &Value::Null));
        assert!(result["warnings"].to_string().contains("tinylm-Q8_0.md is in the way"), "{result}");
    }
    assert_eq!(fs::read_to_string(&readme).unwrap(), "mine");
}

#[test]
fn a_folder_has_its_card_within() {
    let folder = tempfile::tempdir().unwrap();
    let rows = || {
        let qhost = Qhost::new(["quantize", "--format", "rows", "-o"]).arg(folder.path()).arg(fixture("stories260K"));
        qhost.arg("--plugin-dir").arg(test_plugin("misbehave").parent().unwrap()).env("QHOST_BEHAVE", "folder")
    };
    let result = rows().json();
    let output = folder.path().join("stories260K-rows");
    let card = output.join("README.md");
    assert_eq!(result["card_path"].as_str().unwrap(), card.to_str().unwrap());
    let mut names: Vec<_> = fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "qhost-report.json", "weights.rows"]);
    let first = fs::read_to_string(&card).unwrap();
    assert_eq!(read(&card).0["tags"], serde_json::json!(["rows", "qhost"]));
    fs::write(&card, "changed").unwrap();
    let _ = rows().fail_with(2);
    assert_eq!(fs::read_to_string(&card).unwrap(), "changed");
    let _ = rows().arg("--force").json();
    assert_eq!(fs::read_to_string(&card).unwrap(), first);
    let _ = rows().args(["--force", "--no-card"]).json();
    assert!(!card.exists());
}

#[test]
fn no_card_means_none() {
    let folder = tempfile::tempdir().unwrap();
    let result = quantize(&fixture("stories260K"), folder.path()).arg("--no-card").json();
    assert_eq!(result["card_path"], Value::Null);
    assert!(!folder.path().join("stories260K-Q8_0.md").exists());
}
