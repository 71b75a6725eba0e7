//! What plugins are told of activations: transformers' numbers, for any number of threads, and after a kill too.
//!
//! The plugin `observe` writes down all that it is told.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use qhost_tests::{
    checkpoint::RandomLlama,
    command::{Qhost, test_plugin},
    fixture,
};
use safetensors::SafeTensors;
use serde_json::Value;

fn observe(model: &Path, calibration: &Path, output: &Path) -> Qhost {
    let plugin = test_plugin("observe");
    Qhost::new(["quantize", "--format", "observe", "--samples", "8", "--seq-len", "64", "--plugin-dir"])
        .arg(plugin.parent().unwrap())
        .arg(model)
        .arg("--calibration")
        .arg(calibration)
        .arg("-o")
        .arg(output)
}

fn observed(run: Qhost) -> Vec<u8> {
    let result = run.json();
    fs::read(result["output_path"].as_str().unwrap()).unwrap()
}

/// Rows of tokens as JSONL.
fn rows(folder: &Path, rows: &[Vec<u32>]) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(|row| format!("{{\"input_ids\": {row:?}}}\n")).collect();
    fs::write(&path, lines.concat()).unwrap();
    path
}

/// The rows that transformers was asked about.
fn golden_rows(folder: &Path, model: &Path) -> PathBuf {
    let bytes = fs::read(model.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("input_ids").unwrap();
    let tokens = ids.data().as_chunks::<8>().0.iter().map(|raw| u32::try_from(i64::from_le_bytes(*raw)).unwrap());
    let tokens: Vec<u32> = tokens.collect();
    let samples: Vec<Vec<u32>> = tokens.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect();
    rows(folder, &samples)
}

fn singles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|raw| f64::from(f32::from_le_bytes(*raw))).collect()
}

/// What is told of one linear.
struct Record<'a> {
    tokens: u64,
    all_tokens: bool,
    mean_square: Vec<f64>,
    mean_abs: Vec<f64>,
    gram: &'a [u8],
}

/// Cuts a file into the records of linears with these inputs.
fn records<'a>(file: &'a [u8], widths: &[usize], double: bool, sample: usize) -> Vec<Record<'a>> {
    let mut rest = file;
    let records = widths.iter().map(|&width| {
        let mut take = |bytes: usize| {
            let (taken, after) = rest.split_at(bytes);
            rest = after;
            taken
        };
        let tokens = u64::from_le_bytes(*take(8).first_chunk().unwrap());
        let all_tokens = u64::from_le_bytes(*take(8).first_chunk().unwrap()) == 1;
        let (mean_square, mean_abs) = (singles(take(width * 4)), singles(take(width * 4)));
        let gram = take(width * width * if double { 8 } else { 4 });
        take(sample * width * 4);
        Record { tokens, all_tokens, mean_square, mean_abs, gram }
    });
    let records = records.collect();
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    records
}

fn assert_close(what: &str, actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().map(|x| x.abs()).fold(0.0, f64::max);
    let worst = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-5 * scale, "{what}: {worst:e} off, of {scale:e}");
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(fixture("statistics").join(format!("{name}.safetensors"))).unwrap()
}

fn numbers(golden: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    singles(golden.tensor(name).unwrap().data())
}

fn count(golden: &SafeTensors<'_>, name: &str) -> u64 {
    u64::from_le_bytes(*golden.tensor(name).unwrap().data().first_chunk().unwrap())
}

/// Inputs of the linears of a layer of the fixture `llama`, and of its head.
const LLAMA: [usize; 7] = [64, 64, 64, 64, 64, 64, 160];

fn llama_widths() -> Vec<usize> {
    [LLAMA.repeat(3), vec![64]].concat()
}

#[test]
fn statistics_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("llama");
    let rows = golden_rows(folder.path(), &model);
    let bytes = golden("llama");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for double in [false, true] {
        let run = observe(&model, &rows, &folder.path().join(format!("{double}")));
        let run = if double { run.args(["--plugin-option", "precision=double"]) } else { run };
        let file = observed(run);
        let records = records(&file, &llama_widths(), double, 0);
        // Layer 1: queries, keys and values; the output of attention; gate and up; down; and the head.
        let places =
            [("attn_in", 7), ("attn_in", 9), ("attn_out_in", 10), ("ffn_in", 11), ("ffn_mid", 13), ("output_in", 21)];
        for (group, index) in places {
            let record = &records[index];
            assert_eq!((record.tokens, record.all_tokens), (count(&expected, &format!("{group}.tokens")), false));
            assert_close(group, &record.mean_square, &numbers(&expected, &format!("{group}.mean_square")));
            assert_close(group, &record.mean_abs, &numbers(&expected, &format!("{group}.mean_abs")));
            let gram: Vec<f64> = if double {
                record.gram.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw)).collect()
            } else {
                singles(record.gram)
            };
            assert_close(group, &gram, &numbers(&expected, &format!("{group}.gram")));
        }
    }
}

/// The records of the experts of layer 1 of the fixture `qwen3_moe`: gate, up and down of each in turn by kind.
const EXPERTS: usize = 4;

/// Inputs of the linears of a layer: q, k, v, o, router, then gates, ups and downs of the experts.
fn mixture_widths() -> Vec<usize> {
    let layer = [vec![64, 64, 64, 128, 64], vec![64; 2 * EXPERTS], vec![96; EXPERTS]].concat();
    [layer.repeat(3), vec![64]].concat()
}

fn of_expert(records: &[Record<'_>], group: &str, expert: usize) -> usize {
    let layer = records.len() / 3;
    layer + 5 + expert + if group == "ffn_mid" { 2 * EXPERTS } else { 0 }
}

#[test]
fn every_expert_has_statistics_of_the_tokens_that_were_sent_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("qwen3_moe");
    let rows = golden_rows(folder.path(), &model);
    let bytes = golden("qwen3_moe");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let file = observed(observe(&model, &rows, &folder.path().join("plain")));
    let plain = records(&file, &mixture_widths(), false, 0);
    // With a threshold between the experts' counts, those below get statistics of all tokens.
    let run = observe(&model, &rows, &folder.path().join("all")).args(["--plugin-option", "fewest=40"]);
    let all_file = observed(run);
    let all = records(&all_file, &mixture_widths(), false, 0);
    let mut scarce = 0;
    for group in ["ffn_in", "ffn_mid"] {
        for expert in 0..EXPERTS {
            let what = format!("{group}.{expert}");
            let record = &plain[of_expert(&plain, group, expert)];
            let tokens = count(&expected, &format!("{what}.tokens"));
            assert_eq!((record.tokens, record.all_tokens), (tokens, false), "{what}");
            assert_close(&what, &record.mean_square, &numbers(&expected, &format!("{what}.mean_square")));
            let record = &all[of_expert(&all, group, expert)];
            let few = tokens < 40;
            assert_eq!((record.tokens, record.all_tokens), (if few { 80 } else { tokens }, few), "{what}");
            scarce += usize::from(few);
        }
    }
    assert_eq!(scarce, 4, "two of the four experts saw fewer");
    // The same where one group is asked for after the other.
    let run = observe(&model, &rows, &folder.path().join("halved"));
    let halved_file = observed(run.args(["--plugin-option", "fewest=40", "--plugin-option", "halve=true"]));
    let halved = records(&halved_file, &mixture_widths(), false, 0);
    for group in ["ffn_in", "ffn_mid"] {
        for expert in 0..EXPERTS {
            let record = &halved[of_expert(&halved, group, expert)];
            let enough = if record.all_tokens { record.tokens == 80 } else { (40..=80).contains(&record.tokens) };
            assert!(enough && record.mean_square.iter().sum::<f64>() > 0.0, "{group}.{expert}: {}", record.tokens);
        }
    }
}

#[test]
fn statistics_do_not_depend_on_the_threads_nor_samples_on_anything_but_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("llama");
    let rows = golden_rows(folder.path(), &model);
    let run = |threads: &str| {
        let run = observe(&model, &rows, &folder.path().join(threads));
        observed(run.args(["--plugin-option", "sample=5", "--threads", threads]))
    };
    let one = run("1");
    assert_eq!(one, run("2"));
    assert_eq!(one, run("3"));
}

#[test]
fn what_the_original_model_has_more_does_not_depend_on_the_threads_and_is_nothing_before_something_is_substituted() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama", "gpt_neox", "qwen3_moe"] {
        let model = fixture("arch").join(name);
        let rows = golden_rows(folder.path(), &model);
        let run = |halve: &str, threads: &str| {
            let run = observe(&model, &rows, &folder.path().join(format!("{name}-{halve}-{threads}")));
            let options = ["--plugin-option", "cross=true", "--plugin-option", halve, "--threads", threads];
            observed(run.args(options))
        };
        let one = run("halve=true", "1");
        assert!(one == run("halve=true", "2"), "{name}");
        if name == "llama" {
            let (halved, whole) = (originals(&one), originals(&run("halve=false", "2")));
            assert!(whole.iter().flatten().flatten().all(|number| *number == 0.0));
            // Of queries there is nothing yet; all else reads of what was substituted, or adds to it.
            let is_zero = |numbers: &[f64]| numbers.iter().all(|number| *number == 0.0);
            let zeros: Vec<_> = halved.iter().map(|[cross, residual]| (is_zero(cross), is_zero(residual))).collect();
            assert_eq!(zeros[0], (true, true));
            // Before the first layer the streams are the same; attention and the down projections add to them.
            assert_eq!((zeros[3], zeros[6]), ((false, true), (false, false)));
            assert!((7..14).all(|index| zeros[index] == (false, ![10, 13].contains(&index))), "{zeros:?}");
            assert_eq!(zeros[21], (false, true), "the head reads of everything, and adds to nothing");
        }
    }
}

/// What the original model has more, of the linears of a file of the fixture `llama`.
fn originals(file: &[u8]) -> Vec<[Vec<f64>; 2]> {
    let mut rest = file;
    let of_linear = |width: usize| {
        let (record, after) = rest.split_at(16 + 8 * width + 4 * width * (width + width + LLAMA[0]));
        rest = after;
        let cross = &record[16 + 8 * width + 4 * width * width..];
        let (cross, residual) = cross.split_at(4 * width * width);
        [singles(cross), singles(residual)]
    };
    let found = llama_widths().into_iter().map(of_linear).collect();
    assert!(rest.is_empty());
    found
}

#[test]
fn a_plan_counts_the_memory_of_the_original_model() {
    let folder = tempfile::tempdir().unwrap();
    let (model, rows) = slow_model(folder.path());
    let run = |ceiling: u64, cross: &str| {
        let run = observe(&model, &rows, &folder.path().join(cross)).args(["--plugin-option", cross]);
        run.args(["--dry-run", "--threads", "1", "--max-memory"]).arg(ceiling.to_string())
    };
    // The lowest ceiling, within 4 MiB, under which there is a plan without it.
    let fits = |ceiling: &u64| run(ceiling << 20, "cross=false").run().code == Some(0);
    let ceiling = (1..100).map(|step| step * 4).find(fits).unwrap() << 20;
    let error = run(ceiling, "cross=true").fail_with(6);
    assert!(error["hint"].as_str().unwrap().contains("--max-memory"), "{error}");
}

/// A model that takes long enough to be caught at it.
fn slow_model(folder: &Path) -> (PathBuf, PathBuf) {
    let model = folder.join("model");
    RandomLlama { hidden: 128, ffn: 256, layers: 6, heads: 4, ..RandomLlama::default() }.write(&model);
    let samples: Vec<Vec<u32>> =
        (0..8).map(|sample| (0..64).map(|token| (sample * 31 + token * 7) % 90).collect()).collect();
    (model, rows(folder, &samples))
}

fn journal_lines(output: &Path) -> usize {
    let journal = output.join("model-observed.partial").join("journal");
    fs::read_to_string(journal).map_or(0, |text| text.lines().count())
}

#[test]
fn a_run_killed_at_the_border_of_a_layer_goes_on_to_the_same_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let (model, rows) = slow_model(folder.path());
    let halved = ["--plugin-option", "halve=true"];
    let crossed = [&halved[..], &["--plugin-option", "cross=true"]].concat();
    for (name, options) in [("plain", vec![]), ("halved", halved.to_vec()), ("crossed", crossed)] {
        let expected = observed(observe(&model, &rows, &folder.path().join(name)).args(&options));
        for units in [1_usize, 3, 6] {
            let output = folder.path().join(format!("{name}-{units}"));
            let (mut child, _home) = observe(&model, &rows, &output).args(&options).args(["--threads", "1"]).start();
            let began = Instant::now();
            while journal_lines(&output) < units + 2 && child.try_wait().unwrap().is_none() {
                assert!(began.elapsed() < Duration::from_secs(120), "no progress");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let result = observe(&model, &rows, &output).args(&options).json();
            let bytes = fs::read(result["output_path"].as_str().unwrap()).unwrap();
            assert!(bytes == expected, "{name}, killed after {units} units: other statistics");
            assert!(!output.join("model-observed.partial").exists());
        }
    }
}

#[test]
fn substituted_weights_are_what_later_groups_and_layers_see() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("llama");
    let rows = golden_rows(folder.path(), &model);
    let plain = observed(observe(&model, &rows, &folder.path().join("plain")));
    let run = observe(&model, &rows, &folder.path().join("halved")).args(["--plugin-option", "halve=true"]);
    let result = run.json();
    let halved = fs::read(result["output_path"].as_str().unwrap()).unwrap();
    let (plain, halved) = (records(&plain, &llama_widths(), false, 0), records(&halved, &llama_widths(), false, 0));
    // What attention reads in the first layer comes from the embedding alone.
    assert_eq!(plain[0].mean_square, halved[0].mean_square);
    // Values are halved, and the weights of attention hardly change in this model: so are its results.
    let sum = |record: &Record<'_>| record.mean_abs.iter().sum::<f64>();
    let of_attention = sum(&halved[3]) / sum(&plain[3]);
    assert!((0.3..0.7).contains(&of_attention), "{of_attention}");
    assert_ne!(plain[7].mean_square, halved[7].mean_square, "the next layer reads what the substitutes make");
    // The loss is that of the layer's output, relative to it.
    let report: Value = {
        let path = folder.path().join("halved").join("qhost-report.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let losses: Vec<f64> =
        report["tensors"].as_array().unwrap().iter().filter_map(|t| t["metrics"]["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 3, "one for every layer");
    assert!(losses.iter().all(|loss| *loss > 0.0 && *loss < 1.0), "{losses:?}");
}

/// Bytes of a file replaced in place.
fn overwrite(path: &Path, range: Range<usize>, with: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[range].fill(with);
    fs::write(path, bytes).unwrap();
}

#[test]
fn activations_that_are_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("arch").join("llama").join(file), model.join(file)).unwrap();
    }
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = tensors["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap();
    let start = usize::try_from(start).unwrap() + 8 + header;
    // 0x7f7f is near the greatest bf16: the products overflow.
    overwrite(&weights, start..start + 128, 0x7f);
    let rows = golden_rows(folder.path(), &fixture("arch").join("llama"));
    let error = observe(&model, &rows, &folder.path().join("out")).fail_with(5);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("layer 1") && message.contains("ffn_mid") && message.contains("sample 0"), "{message}");
}

#[test]
fn a_calibration_that_nothing_uses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Qhost::new(["quantize", "--format", "gguf", "--level", "BF16", "--calibration", "x.txt", "-o"])
        .arg(folder.path())
        .arg(fixture("tinylm"))
        .fail_with(2);
    assert!(error["message"].as_str().unwrap().contains("nothing to calibrate"), "{error}");
}

#[test]
fn tokens_of_another_vocabulary_are_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(folder.path(), &[vec![1, 2, 3], vec![4, 320, 6]]);
    let error = observe(&fixture("arch").join("llama"), &rows, folder.path()).fail_with(5);
    assert!(error["message"].as_str().unwrap().contains("320"), "{error}");
}

#[test]
fn a_ceiling_that_statistics_do_not_fit_under_is_refused_in_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("llama");
    let rows = golden_rows(folder.path(), &model);
    let error = observe(&model, &rows, folder.path()).args(["--max-memory", "8MiB"]).fail_with(6);
    assert!(error["hint"].as_str().unwrap().contains("--max-memory"), "{error}");
}
