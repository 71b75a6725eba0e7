//! Conversions as a user sees them: what is asked, what is told, and that plugins which know nothing of each other work
//! together. That numbers survive is held against independent decoders elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    command::{Ended, Qhost, library_name, test_plugin},
    fixture,
    hub::{MockHub, Repo},
};
use serde_json::Value;

/// A folder of plugins, besides those of the distribution.
fn plugins(folder: &Path, names: &[&str]) -> PathBuf {
    let plugins = folder.join(format!("plugins-{}", names.join("-")));
    fs::create_dir_all(&plugins).unwrap();
    for name in names {
        fs::copy(test_plugin(name), plugins.join(library_name(name))).unwrap();
    }
    plugins
}

/// `tinylm` in the format that nobody else knows.
fn nibbles(folder: &Path, plugins: &Path) -> PathBuf {
    let command = Qhost::new(["quantize", "--format", "nibble", "-o"]).arg(folder).arg(fixture("tinylm"));
    let made = command.arg("--plugin-dir").arg(plugins).json();
    PathBuf::from(made["output_path"].as_str().unwrap())
}

fn convert(source: &Path, format: &str, output: &Path) -> Qhost {
    Qhost::new(["convert", "--format", format, "-o"]).arg(output).arg(source)
}

fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let document = ended.document();
    let text = format!("{} {}", document["message"], document["hint"]);
    for word in words {
        assert!(text.contains(word), "{word}: {ended:?}");
    }
}

#[test]
fn commands_say_which_of_them_takes_what() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = fixture("tinylm");
    refused(&convert(&checkpoint, "gguf", folder.path()).arg("--json").run(), 2, &["nothing to convert", "quantize"]);
    let file = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]).arg(folder.path());
    let file = file.arg(&checkpoint).json();
    let file = Path::new(file["output_path"].as_str().unwrap());
    let quantize = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_0", "--json"]).arg(file);
    refused(&quantize.run(), 4, &["is a file", "qhost convert"]);
    for (name, words) in [("gptq/b4", "already quantised (gptq)"), ("awq/asym", "already quantised (awq)")] {
        let quantize = Qhost::new(["quantize", "--format", "awq", "--json"]).arg(fixture(name));
        refused(&quantize.run(), 4, &[words, "original checkpoint", "`convert`"]);
    }
    let absent = folder.path().join("no/such/file.gguf");
    assert_eq!(convert(&absent, "gguf", folder.path()).arg("--json").run().code, Some(3));
    // `plan` takes both, and says the same as --dry-run.
    let both = |command: &[&str]| {
        let command = Qhost::new(command).args(["--format", "gguf", "--level", "Q8_0", "-o"]);
        command.arg(folder.path().join("out")).arg(file).json()
    };
    let (plan, dry) = (both(&["plan"]), both(&["convert", "--dry-run"]));
    assert_eq!(plan["conversion"], dry["conversion"]);
    assert_eq!(plan["conversion"]["source_format"], "gguf");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn where_there_is_no_way_it_says_what_would_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = plugins(folder.path(), &["nibble"]);
    let file = nibbles(folder.path(), &plugins);
    // Its embedding is floats, and that format takes none.
    let ended = convert(&file, "nibble-only", folder.path()).arg("--plugin-dir").arg(&plugins).arg("--json").run();
    refused(&ended, 4, &["no way to nibble-only", "model.embed_tokens.weight", "F32", "makes nibble/blocks of it"]);
}

#[test]
fn what_costs_quality_is_asked_and_not_done() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = plugins(folder.path(), &["nibble"]);
    let file = nibbles(folder.path(), &plugins);
    let output = folder.path().join("out");
    let command = |format: &str| convert(&file, format, &output).arg("--plugin-dir").arg(&plugins);
    let ended = command("gguf").args(["--level", "Q4_K_M", "--json"]).run();
    refused(&ended, 9, &["28 tensors are quantised once more", "nibble/blocks", "--yes"]);
    assert!(!output.exists(), "nothing was begun");
    let made = command("gguf").args(["--level", "Q4_K_M", "--yes"]).json();
    let conversion = &made["conversion"];
    assert_eq!((&conversion["fidelity"], &conversion["exact"]), (&"requantised".into(), &false.into()));
    let told = made["warnings"].to_string();
    assert!(told.contains("quantised already") && told.contains("requantised"), "{told}");
    let report = fs::read(output.join("qhost-report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["conversion"], *conversion);
    // Its own blocks it takes as they are, without a question.
    let again = command("nibble").json();
    assert_eq!((&again["conversion"]["fidelity"], &again["conversion"]["exact"]), (&"exact".into(), &true.into()));
    assert!(!again["warnings"].to_string().contains("quantised already"), "{again}");
    assert_eq!(fs::read(&file).unwrap(), fs::read(again["output_path"].as_str().unwrap()).unwrap());
}

#[test]
fn what_is_lost_is_measured_against_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = plugins(folder.path(), &["nibble"]);
    let file = nibbles(folder.path(), &plugins);
    let text = folder.path().join("text.txt");
    fs::write(&text, fs::read_to_string(qhost_tests::repository().join("README.md")).unwrap()).unwrap();
    let output = folder.path().join("out");
    let made = || convert(&file, "nibble", &output).arg("--plugin-dir").arg(&plugins);
    let absent = made().arg("--against").arg(folder.path().join("absent")).fail_with(3);
    assert!(absent["message"].as_str().unwrap().contains("absent") && !output.exists(), "{absent}");
    let made = made();
    let made = made.arg("--against").arg(fixture("tinylm")).arg("--dataset").arg(&text).json();
    let (source, output) = (&made["loss"]["source"], &made["loss"]["output"]);
    assert!(source["kl_mean"].as_f64().unwrap() > 1e-4, "{made}");
    assert_eq!(source["kl_mean"], output["kl_mean"], "the numbers are the same");
    assert!(source["perplexity_original"].as_f64().unwrap() < source["perplexity"].as_f64().unwrap() * 1.5, "{made}");
}

#[test]
fn a_quantised_model_of_a_hub_is_fetched_and_converted() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("gptq/b4").join(name), model.join(name)).unwrap();
    }
    let hub = MockHub::start(Repo::of_folder("acme/tiny-GPTQ", &model));
    let on_hub = |qhost: Qhost| {
        let qhost = qhost.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", hub.endpoint());
        qhost.env("HF_HOME", folder.path().join("hf")).in_folder(folder.path())
    };
    let quantize = Qhost::new(["quantize", "acme/tiny-GPTQ", "--format", "gguf", "--level", "Q4_0"]);
    let refused = on_hub(quantize).fail_with(4);
    assert!(refused["hint"].as_str().unwrap().contains("qhost convert"), "{refused}");
    let there = on_hub(convert(Path::new("acme/tiny-GPTQ"), "safetensors", &folder.path().join("out"))).json();
    assert!(there["source"].as_str().unwrap().starts_with("acme/tiny-GPTQ@"), "{there}");
    assert!(there["output_path"].as_str().unwrap().ends_with("tiny-F16"), "{there}");
    let here = convert(&model, "safetensors", &folder.path().join("local")).json();
    let weights =
        |made: &Value| fs::read(Path::new(made["output_path"].as_str().unwrap()).join("model.safetensors")).unwrap();
    assert!(weights(&there) == weights(&here));
}

#[test]
fn a_plugin_in_between_leads_from_one_format_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = plugins(folder.path(), &["nibble", "bridge"]);
    let listed = Qhost::new(["plugins", "list", "--plugin-dir"]).arg(&plugins).json();
    let bridge = listed["plugins"].as_array().unwrap().iter().find(|plugin| plugin["id"] == "bridge").unwrap();
    assert_eq!((&bridge["status"], bridge["transcodes"][0]["from"].as_str()), (&"ok".into(), Some("nibble/blocks")));
    let file = nibbles(folder.path(), &plugins);
    let output = folder.path().join("out");
    for format in ["gguf", "gptq", "awq"] {
        let there = convert(&file, format, &output).arg("--plugin-dir").arg(&plugins).json();
        let conversion = &there["conversion"];
        let classes = conversion["classes"].as_array().unwrap();
        let linears = classes.iter().find(|class| class["stored"][0] == "nibble/blocks").unwrap();
        assert_eq!(linears["fidelity"], "exact", "{format}: {conversion}");
        assert_eq!(
            (&linears["by"][0], linears["tensors"].as_u64()),
            (&"bridge".into(), Some(28)),
            "{format}: {linears}"
        );
        // And back: the same blocks.
        let path = Path::new(there["output_path"].as_str().unwrap());
        let back = convert(path, "nibble", &output.join(format)).arg("--plugin-dir").arg(&plugins).json();
        let linears =
            back["conversion"]["classes"].as_array().unwrap().iter().find(|class| class["encoding"] == "nibble/blocks");
        assert_eq!(linears.unwrap()["fidelity"], "exact", "{format}: {back}");
        assert_eq!(blocks(&file), blocks(Path::new(back["output_path"].as_str().unwrap())), "{format}");
    }
}

/// The blocks of every linear of a file, by name.
fn blocks(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = fs::read(path).unwrap();
    let end = 16 + usize::try_from(u64::from_le_bytes(*file[8..].first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&file[16..end]).unwrap();
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let tensors = header["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["encoding"] == "nibble/blocks");
    let mut found: Vec<_> = tensors
        .map(|tensor| {
            let start = end + number(&tensor["offset"]);
            (tensor["name"].to_string(), file[start..start + number(&tensor["bytes"])].to_vec())
        })
        .collect();
    found.sort();
    assert_eq!(found.len(), 28);
    found
}
