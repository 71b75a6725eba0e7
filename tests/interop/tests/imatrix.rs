//! Files with `--imatrix auto` against `llama_model_quantize` with the same importance matrix: the type and the
//! bytes of every tensor, and the metadata.
//!
//! The matrix that llama.cpp gets is made from what the test plugin `observe` is told of the same samples,
//! in the way of `llama-imatrix` and `llama-quantize`: sums and counts in `f32`, and their quotients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_gguf::format::LEVELS;
use qhost_oracle::{Gguf, Recipe, quantize_file};
use qhost_tests::{checkpoint::RandomLlama, command::Qhost, command::test_plugin, fixture};

/// Every file has so many samples of so many tokens.
const SAMPLING: [&str; 4] = ["--samples", "6", "--seq-len", "40"];

/// The tokens of the samples: rows that differ, and visit the whole vocabulary.
fn samples(folder: &Path, vocabulary: u32) -> PathBuf {
    let row = |row: u32| (0..40).map(|at| (row * 977 + at * at * 31 + 7) % vocabulary).collect::<Vec<_>>();
    let lines: Vec<_> = (0..6).map(|index| format!("{{\"input_ids\": {:?}}}\n", row(index))).collect();
    let path = folder.join("rows.jsonl");
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn run(format: &str, model: &Path, data: &Path, output: &Path) -> Qhost {
    let qhost = Qhost::new(["quantize", "--format", format, "--force", "-o"]).arg(output).arg(model);
    qhost.arg("--calibration").arg(data).args(SAMPLING)
}

fn output_of(qhost: Qhost) -> PathBuf {
    qhost.json()["output_path"].as_str().unwrap().into()
}

/// The modules of a layer in the order in which `observe` tells of them, by their names in GGUF.
const MODULES: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// Those of a layer with experts.
const MODULES_WITH_EXPERTS: [&str; 8] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

/// The importance matrix of a plain Llama, with experts or without.
fn importances(model: &Path, data: &Path, output: &Path) -> BTreeMap<String, Vec<f32>> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let size = |key: &str| usize::try_from(config[key].as_u64().unwrap()).unwrap();
    let experts = config["num_local_experts"].as_u64();
    let modules = experts.map_or(MODULES.as_slice(), |_| MODULES_WITH_EXPERTS.as_slice());
    let plugin = test_plugin("observe");
    let observed = run("observe", model, data, output).arg("--plugin-dir").arg(plugin.parent().unwrap());
    let file = fs::read(output_of(observed)).unwrap();
    let mut rest = file.as_slice();
    let mut all = BTreeMap::new();
    for layer in 0..size("num_hidden_layers") {
        for module in modules {
            let width = size(if module.contains("down") { "intermediate_size" } else { "hidden_size" });
            let mut columns = Vec::new();
            let matrices = experts.filter(|_| module.ends_with("exps")).unwrap_or(1);
            for _ in 0..matrices {
                let mut take = |bytes: usize| {
                    let (taken, after) = rest.split_at(bytes);
                    rest = after;
                    taken
                };
                let tokens = u64::from_le_bytes(*take(8).first_chunk().unwrap());
                assert!(tokens == 240 || matrices > 1);
                take(8);
                let count = f32::from(u16::try_from(tokens).unwrap());
                let means = take(4 * width).as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
                columns.extend(means.map(|mean| if tokens > 0 { mean * count / count } else { 1.0 }));
                take(4 * width + 4 * width * width);
            }
            all.insert(format!("blk.{layer}.{module}.weight"), columns);
        }
    }
    all
}

/// The importances in a file of `llama-imatrix`'s form: sums by counts, which is what `llama-quantize` makes of it.
fn saved(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = Gguf::open(path).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = file.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let bytes = file.read(tensor).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
    };
    let names = file.tensors.iter().filter_map(|tensor| tensor.name.strip_suffix(".in_sum2"));
    names
        .map(|name| {
            let (sums, counts) = (numbers(&format!("{name}.in_sum2")), numbers(&format!("{name}.counts")));
            let each = sums.len() / counts.len();
            let quotients = sums.chunks(each).zip(&counts);
            let quotients = quotients
                .flat_map(|(sums, count)| sums.iter().map(move |sum| if *count > 0.0 { sum / count } else { 1.0 }));
            (name.to_owned(), quotients.collect())
        })
        .collect()
}

/// Makes levels of a model both ways, from the same importance matrix.
fn assert_same_tensors(model: &Path, vocabulary: u32, levels: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let data = samples(folder.path(), vocabulary);
    let importances = importances(model, &data, &folder.path().join("observed"));
    let base = qhost_interop::quantize(model, "F32", &folder.path().join("base"));
    for level in LEVELS.iter().filter(|level| levels.contains(&level.name)) {
        let ours = run("gguf", model, &data, folder.path()).args(["--level", level.name, "--imatrix", "auto"]);
        let result = ours.args(["--plugin-option", "save-imatrix=true"]).json();
        let beside = Path::new(result["beside_paths"][0].as_str().unwrap());
        assert!(saved(beside) == importances, "{}: another importance matrix was saved", level.name);
        let ours = Gguf::open(Path::new(result["output_path"].as_str().unwrap())).unwrap();
        let plain = Gguf::open(&qhost_interop::quantize(model, level.name, &folder.path().join("plain"))).unwrap();
        let path = folder.path().join("reference.gguf");
        let recipe = Recipe { importances: importances.clone(), ..Recipe::new(level.file_type) };
        quantize_file(&base, &path, &recipe).unwrap();
        let reference = Gguf::open(&path).unwrap();
        assert_eq!(ours.tensors.len(), reference.tensors.len());
        let mut changed = 0;
        for ((mine, theirs), plainly) in ours.tensors.iter().zip(&reference.tensors).zip(&plain.tensors) {
            let same_kind = (&mine.name, mine.ggml_type) == (&theirs.name, theirs.ggml_type);
            assert!(same_kind, "{}: {mine:?} is not {theirs:?}", level.name);
            let bytes = ours.read(mine).unwrap();
            assert!(bytes == reference.read(theirs).unwrap(), "{}: the bytes of {} differ", level.name, mine.name);
            changed += usize::from(bytes != plain.read(plainly).unwrap());
        }
        // Both really used it.
        let small = importances.keys().filter(|name| !name.contains("ffn_gate_inp")).count();
        assert!(changed >= small / 2, "{}: {changed} tensors changed", level.name);
        let others: Vec<_> = ours.metadata.iter().filter(|(key, _)| !key.starts_with("quantize.imatrix.")).collect();
        assert!(others.into_iter().eq(reference.metadata.iter()), "{}: the metadata differ", level.name);
    }
}

#[test]
fn tinylm() {
    let levels =
        ["Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_S", "Q6_K"];
    assert_same_tensors(&fixture("tinylm"), 4096, &levels);
}

/// The first layers have another type at these levels, where there are eight layers or more.
#[test]
fn levels_whose_mixture_depends_on_there_being_importances() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("deep");
    RandomLlama { ffn: 256, layers: 17, heads: 8, kv_heads: 2, ..RandomLlama::default() }.write(&model);
    assert_same_tensors(&model, 512, &["IQ4_XS", "Q4_0", "IQ4_NL", "Q5_0", "Q4_K_S"]);
}

/// Every expert has importances of its own.
#[test]
fn experts() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("experts");
    RandomLlama { layers: 2, experts: 6, ffn: 256, heads: 8, kv_heads: 2, ..RandomLlama::default() }.write(&model);
    assert_same_tensors(&model, 512, &["Q2_K", "Q3_K_M", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K_M", "Q5_1"]);
}
