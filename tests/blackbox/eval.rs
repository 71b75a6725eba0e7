//! `qhost eval`: the figures are those of transformers, whatever cannot be measured is named, and what is told does
//! not depend on how.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{copy_of, write_json},
    command::Qhost,
    fixture,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hub::{Case, ID},
    inspect::quantize,
};

fn eval(model: &Path, data: &Path) -> Qhost {
    Qhost::new(["eval"]).arg(model).arg("--dataset").arg(data)
}

fn number(document: &Value, key: &str) -> f64 {
    document[key].as_f64().unwrap()
}

fn prose() -> PathBuf {
    fixture("text").join("prose.txt")
}

fn write_rows(folder: &TempDir, rows: &[Vec<u32>]) -> PathBuf {
    let path = folder.path().join("rows.jsonl");
    let lines: Vec<_> = rows.iter().map(|row| json!({"input_ids": row}).to_string()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// The rows of a golden file, and the mean loss of all that is predicted in them, by its logits.
fn golden(folder: &Path) -> (Vec<Vec<u32>>, f64) {
    let bytes = fs::read(folder.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (ids, logits) = (tensors.tensor("input_ids").unwrap(), tensors.tensor("logits").unwrap());
    let (length, vocabulary) = (ids.shape()[1], logits.shape()[2]);
    let ids: Vec<_> =
        ids.data().as_chunks::<8>().0.iter().map(|raw| u32::try_from(i64::from_le_bytes(*raw)).unwrap()).collect();
    let logits: Vec<_> =
        logits.data().as_chunks::<4>().0.iter().map(|raw| f64::from(f32::from_le_bytes(*raw))).collect();
    let rows: Vec<_> = ids.chunks(length).map(<[u32]>::to_vec).collect();
    let (mut total, mut count) = (0.0, 0);
    for (row, logits) in rows.iter().zip(logits.chunks(length * vocabulary)) {
        for (position, logits) in logits.chunks(vocabulary).take(length - 1).enumerate() {
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            total += sum.ln() - logits[row[position + 1] as usize];
            count += 1;
        }
    }
    (rows, total / f64::from(count))
}

#[test]
fn losses_of_every_family_are_those_of_transformers() {
    let mut families: Vec<_> = fs::read_dir(fixture("arch")).unwrap().map(|entry| entry.unwrap().path()).collect();
    families.retain(|folder| folder.join("golden.safetensors").is_file());
    assert!(families.len() >= 36, "{} families", families.len());
    let mut off = Vec::new();
    for family in families {
        let (rows, expected) = golden(&family);
        let folder = tempfile::tempdir().unwrap();
        let told = eval(&family, &write_rows(&folder, &rows)).json();
        let loss = number(&told, "mean_nll");
        if (loss - expected).abs() > 1e-4 || told["tokens"] != 78 || told["windows"] != 2 {
            off.push(format!("{}: {loss}, and not {expected}: {told}", family.display()));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

#[test]
fn perplexities_of_a_text_are_those_of_transformers_by_either_rule() {
    let goldens: Value = serde_json::from_slice(&fs::read(fixture("text").join("perplexity.json")).unwrap()).unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let ctx = case["ctx"].to_string();
        let model = fixture(case["model"].as_str().unwrap());
        let told = eval(&model, &prose()).args(["--ctx", &ctx, "--score", case["score"].as_str().unwrap()]).json();
        for key in ["windows", "tokens", "ctx", "score"] {
            assert_eq!(told[key], case[key], "{key} of {case}");
        }
        let (found, expected) = (number(&told, "perplexity"), number(case, "perplexity"));
        assert!((found - expected).abs() < 1e-3, "{found}: {case}");
        assert!((number(&told, "mean_nll").exp() - found).abs() < 1e-9 * found);
    }
}

#[test]
fn a_model_against_itself_differs_in_nothing() {
    let model = fixture("tinylm");
    let told = eval(&model, &prose()).args(["--ctx", "64", "--windows", "3", "--against"]).arg(&model).json();
    for key in ["kl_mean", "kl_median", "kl_p99", "kl_max", "perplexity_difference", "perplexity_difference_error"] {
        assert!(number(&told, key).abs() < 1e-12, "{key}: {told}");
    }
    assert!((number(&told, "top1_agreement") - 1.0).abs() < 1e-12);
    assert!((number(&told, "perplexity") - number(&told, "perplexity_original")).abs() < 1e-12);
    let layers = told["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    assert!(layers.iter().all(|layer| layer["relative_rms"] == 0.0), "{told}");
}

/// By their own tokenizers: the same tokens, and the better the level, the nearer the predictions.
#[test]
fn quantised_files_are_measured_like_checkpoints() {
    for model in ["tinylm", "stories260K"] {
        let (folder, source) = (tempfile::tempdir().unwrap(), fixture(model));
        let short = ["--ctx", "64", "--windows", "6"];
        let original = eval(&source, &prose()).args(short).json();
        let divergences = ["F32", "Q8_0", "Q4_K_M"].map(|level| {
            let file = quantize(&source, level, folder.path());
            let told = eval(&file, &prose()).args(short).arg("--against").arg(&source).json();
            assert_eq!((told["level"].as_str(), told["architecture"].as_str()), (Some(level), Some("llama")));
            assert_eq!(told["dataset"]["sha256"], original["dataset"]["sha256"], "{model} {level}");
            assert_eq!(told["perplexity_original"], original["perplexity"], "{model} {level}");
            let alone = eval(&file, &prose()).args(short).json();
            assert_eq!(told["perplexity"], alone["perplexity"], "{model} {level}");
            assert!(told["layers"].as_array().is_some_and(|layers| !layers.is_empty()), "{told}");
            number(&told, "kl_mean")
        });
        assert!(divergences[0] < 1e-9, "{model}: {divergences:?}");
        assert!(divergences[0] < divergences[1] && divergences[1] < divergences[2], "{model}: {divergences:?}");
        assert!(divergences[1] < 1e-3 && divergences[2] < 0.1, "{model}: {divergences:?}");
    }
}

/// A copy of tinylm, with one tensor's weights changed.
fn changed(folder: &TempDir, tensor: &str, change: impl Fn(usize, &mut [u8; 2])) -> PathBuf {
    let model = copy_of(&fixture("tinylm"), folder.path());
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let place = |index: usize| usize::try_from(header[tensor]["data_offsets"][index].as_u64().unwrap()).unwrap();
    let weights = &mut bytes[8 + length..][place(0)..place(1)];
    weights.as_chunks_mut::<2>().0.iter_mut().enumerate().for_each(|(index, weight)| change(index, weight));
    fs::write(&path, bytes).unwrap();
    model
}

#[test]
fn a_changed_layer_shows_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(&folder, "model.layers.2.mlp.down_proj.weight", |index, weight| {
        if index % 3 == 0 {
            *weight = [0; 2];
        }
    });
    let told =
        eval(&model, &prose()).args(["--ctx", "64", "--windows", "3", "--against"]).arg(fixture("tinylm")).json();
    let errors: Vec<_> = told["layers"].as_array().unwrap().iter().map(|layer| number(layer, "relative_rms")).collect();
    assert!(errors[0] == 0.0 && errors[1] == 0.0 && errors[2] > 0.01 && errors[3] > 0.01, "{errors:?}");
    assert!(number(&told, "kl_mean") > 1e-4, "{told}");
    assert!(
        number(&told, "kl_median") <= number(&told, "kl_p99") && number(&told, "kl_p99") <= number(&told, "kl_max")
    );
    assert!(number(&told, "top1_agreement") < 1.0);
    let difference = number(&told, "perplexity") - number(&told, "perplexity_original");
    assert!((number(&told, "perplexity_difference") - difference).abs() < 1e-9);
}

#[test]
fn figures_do_not_depend_on_threads_or_memory() {
    let run = |arguments: [&str; 4]| {
        let qhost = eval(&fixture("stories260K"), &prose()).args(["--ctx", "64", "--windows", "4"]);
        let mut told = qhost.args(arguments).json();
        for key in [
            "duration_seconds",
            "tokens_per_second",
            "threads",
            "peak_memory_bytes",
            "peak_anonymous_bytes",
            "max_memory_bytes",
        ] {
            told.as_object_mut().unwrap().remove(key).unwrap();
        }
        told
    };
    let one = run(["--threads", "1", "--max-memory", "4GiB"]);
    assert_eq!(one, run(["--threads", "3", "--max-memory", "1GiB"]));
}

/// Its own tokenizer is not there, and that of the original is.
#[test]
fn a_tokenizer_may_be_the_originals() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("tinylm"), folder.path());
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::remove_file(model.join(file)).unwrap();
    }
    let short = ["--ctx", "64", "--windows", "2"];
    fails(eval(&model, &prose()).args(short), 4, &["tokenizer"]);
    let told = eval(&model, &prose()).args(short).arg("--against").arg(fixture("tinylm")).json();
    assert_eq!(told["perplexity"], eval(&fixture("tinylm"), &prose()).args(short).json()["perplexity"]);
}

#[test]
fn a_model_of_a_hub_is_fetched_to_be_measured() {
    let case = Case::new();
    let of = |model: &Path, revision: &[&str]| {
        let qhost = eval(model, &prose()).args(["--ctx", "64", "--windows", "2"]).args(revision);
        case.with_settings(qhost).json()
    };
    let (fetched, local) = (of(Path::new(ID), &["--revision", "main"]), of(&case.path("tiny"), &[]));
    assert_eq!(fetched["path"], format!("{ID}@{}", Case::commit()));
    assert_eq!(fetched["perplexity"], local["perplexity"]);
    // A revision is that of whichever is on a hub.
    let compared = of(&case.path("tiny"), &["--against", ID, "--revision", "main"]);
    assert_eq!((&compared["against"]["path"], &compared["kl_max"]), (&fetched["path"], &json!(0.0)));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(&folder, "model.layers.1.mlp.up_proj.weight", |index, weight| {
        if index % 5 == 0 {
            *weight = [0; 2];
        }
    });
    let page = folder.path().join("page.html");
    fs::write(&page, "an older one").unwrap();
    let qhost = eval(&model, &prose()).args(["--ctx", "64", "--windows", "3", "--html"]).arg(&page);
    let told = qhost.arg("--against").arg(fixture("tinylm")).json();
    assert_eq!(told["html_path"].as_str(), page.to_str());
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(text.matches("<svg").count(), 3, "divergence, layers, losses by place");
    let perplexity = format!("{:.4}", number(&told, "perplexity"));
    assert!(text.contains(&perplexity), "{perplexity} is not in the page");
    let outside = ["src=", "href=", "@import", "url("];
    assert!(outside.iter().all(|word| !text.contains(word)), "the page asks for something else");
    // Names of namespaces are no addresses that are asked.
    assert_eq!(text.matches("http").count(), text.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_page_that_cannot_be_written_is_told_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    // There is no such model: had the work begun, that would be what is told.
    let qhost = eval(Path::new("./no-such-model"), &prose()).arg("--html").arg(folder.path().join("no/page.html"));
    let error = qhost.fail_with(6);
    assert!(error["message"].as_str().unwrap().contains("page.html"), "{error}");
}

/// Fails with this code, and words that hold all of these.
fn fails(qhost: Qhost, code: i32, words: &[&str]) {
    let error = qhost.fail_with(code);
    let message = error["message"].as_str().unwrap();
    assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {error}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("stories260K");
    let rows = |rows: &[Vec<u32>]| write_rows(&folder, rows);
    fails(eval(&model, &rows(&[vec![1, 2, 3], vec![4, 512]])), 5, &["rows.jsonl", "512"]);
    fails(eval(&model, &rows(&[])), 5, &["rows.jsonl"]);
    fails(eval(&model, &rows(&[vec![7], vec![8]])), 5, &["rows.jsonl", "no prediction"]);
    // Its positions end at 512.
    fails(eval(&model, &prose()).args(["--ctx", "100000"]), 2, &["prose.txt", "fills no window of 100000"]);
    fails(eval(&model, &folder.path().join("nothing.txt")), 3, &["nothing.txt"]);
    fails(eval(&folder.path().join("nothing"), &prose()), 3, &["nothing"]);
    fails(eval(&model, &prose()).arg("--against").arg(folder.path().join("none")), 3, &["none"]);
    fails(eval(&model, &prose()).args(["--ctx", "1"]), 2, &["--ctx"]);
    fails(eval(&model, &prose()).args(["--max-memory", "1MiB"]), 6, &["memory"]);
}

#[test]
fn what_cannot_be_run_is_refused_and_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("tinylm"), folder.path());
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["hidden_act"] = "mish".into();
    write_json(&path, &config);
    fails(eval(&model, &prose()), 4, &["llama", "mish"]);
    config["hidden_act"] = "silu".into();
    (config["model_type"], config["architectures"]) = ("unheard_of".into(), json!(["UnheardOfForCausalLM"]));
    write_json(&path, &config);
    fails(eval(&model, &prose()), 4, &["unheard_of"]);
}

/// The quiet NaN of bf16, in one place.
#[test]
fn weights_that_are_no_numbers_are_found() {
    let short = ["--ctx", "64", "--windows", "2"];
    for (tensor, words) in [
        ("model.layers.1.self_attn.q_proj.weight", ["layer 1"]),
        ("model.layers.3.mlp.down_proj.weight", ["layer 3"]),
        ("lm_head.weight", ["logits"]),
        ("model.norm.weight", ["logits"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = changed(&folder, tensor, |index, weight| {
            if index == 5 {
                *weight = 0x7fc0_u16.to_le_bytes();
            }
        });
        fails(eval(&model, &prose()).args(short), 5, &words);
    }
}

#[test]
fn people_get_a_table() {
    let model = fixture("tinylm");
    let qhost = eval(&model, &prose()).args(["--ctx", "64", "--windows", "2", "--against"]).arg(&model);
    let told = qhost.args(["--format", "human"]).succeed().stdout;
    for word in ["perplexity", "mean loss", "divergence", "agreement", "100.00 %", "after layer"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let quiet = eval(&model, &prose()).args(["--ctx", "64", "--windows", "2", "--quiet"]).succeed();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

/// No machine has that many; where there is no driver at all, that is told.
#[test]
fn a_device_that_is_not_there_is_refused_with_what_to_do() {
    let text = fixture("text").join("prose.txt");
    let eval = Qhost::new(["eval", "--ctx=64", "--windows=1", "--device=cuda:99", "--dataset"]).arg(text);
    let refused = eval.arg(fixture("stories260K")).fail_with(4);
    assert!(refused["hint"].as_str().unwrap().contains("--device cpu"), "{refused}");
}
