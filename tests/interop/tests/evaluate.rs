//! Perplexity and divergence by `qhost eval` against those of real llama.cpp, of the same files and the same text.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_interop::quantize;
use qhost_oracle::{Gguf, Model, Recipe, Scored, quantize_file};
use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

const CTX: usize = 128;

/// By how much mean losses may differ: llama.cpp rounds activations before it multiplies them, to 16-bit floats for F16, and
/// to 8 bits block by block for quantised weights; here they stay floats. With F32 only the order of sums differs. Seen
/// were 7.5e-8, 3.3e-5, 6.0e-5 and 1.3e-3.
const NOISE: [(&str, f64); 4] = [("F32", 1e-5), ("F16", 2e-4), ("Q8_0", 5e-4), ("Q4_K_M", 4e-3)];

/// The mean loss by `qhost eval` less that by llama.cpp, and the latter.
fn difference(file: &Path) -> (f64, f64) {
    let text = fixture("text").join("prose.txt");
    let ctx = CTX.to_string();
    let told = Qhost::new(["eval", "--score", "second-half", "--ctx", &ctx, "--dataset"]).arg(&text).arg(file).json();
    let theirs = Model::load(file).unwrap();
    let theirs = theirs.perplexity(&fs::read_to_string(&text).unwrap(), CTX, Scored::SecondHalf).unwrap();
    assert_eq!(told["tokens"], theirs.scored, "{}", file.display());
    (told["mean_nll"].as_f64().unwrap() - theirs.mean_nll, theirs.mean_nll)
}

#[test]
fn perplexity_is_that_of_llama_cpp_within_its_arithmetic_noise() {
    for model in ["tinylm", "stories260K"] {
        for (level, noise) in NOISE {
            let folder = tempfile::tempdir().unwrap();
            let (difference, loss) = difference(&quantize(&fixture(model), level, folder.path()));
            assert!(difference.abs() < noise, "{model} {level}: {difference} of {loss}");
        }
    }
}

/// By how much the mean divergence from the original may differ, for the same reason: the noise of llama.cpp's activations
/// adds to what the weights do. Seen were 0, 1.4e-4, 5.4e-4 and 5.7e-4.
const MORE: [(&str, f64); 4] = [("F32", 1e-7), ("Q8_0", 3e-4), ("Q4_K_M", 1e-3), ("Q2_K", 2e-3)];

#[test]
fn divergence_is_that_of_llama_cpp_within_its_arithmetic_noise() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let data = fixture("text").join("prose.tinylm.jsonl");
    let row = |line: &str| -> Vec<i32> {
        let row: Value = serde_json::from_str(line).unwrap();
        serde_json::from_value(row["input_ids"].clone()).unwrap()
    };
    let rows: Vec<_> = fs::read_to_string(&data).unwrap().lines().map(row).collect();
    let original = Model::load(&quantize(&model, "F32", &folder.path().join("base"))).unwrap();
    let mut before = 0.0;
    for (level, noise) in MORE {
        let file = quantize(&model, level, folder.path());
        let told = Qhost::new(["eval", "--dataset"]).arg(&data).arg("--against").arg(&model).arg(&file).json();
        let theirs = Model::load(&file).unwrap().divergence_from(&original, &rows).unwrap();
        assert_eq!(told["tokens"], theirs.scored, "{level}");
        let number = |key: &str| told[key].as_f64().unwrap();
        let more = theirs.kl - number("kl_mean");
        assert!(more.abs() < noise, "{level}: {} is more by {more}", theirs.kl);
        assert!((number("top1_agreement") - theirs.top1_agreement).abs() < 0.02, "{level}: {theirs:?}");
        assert!((number("mean_nll_original") - theirs.mean_nll_original).abs() < 1e-5, "{level}: {theirs:?}");
        // Coarser levels are farther away, by both.
        assert!(level == "F32" || theirs.kl.min(number("kl_mean")) > before, "{level}: {theirs:?} after {before}");
        before = theirs.kl.max(number("kl_mean"));
    }
}

/// Every level that llama.cpp makes and this project does not: its number, its name and the noise, which grows with the
/// loss.
const THEIRS: [(u32, &str, f64); 17] = [
    (19, "IQ2_XXS", 2e-2),
    (20, "IQ2_XS", 2e-2),
    (21, "Q2_K_S", 2e-2),
    (22, "IQ3_XS", 2e-2),
    (23, "IQ3_XXS", 2e-2),
    (24, "IQ1_S", 2e-2),
    (25, "IQ4_NL", 2e-2),
    (26, "IQ3_S", 2e-2),
    (27, "IQ3_M", 2e-2),
    (28, "IQ2_S", 2e-2),
    (29, "IQ2_M", 2e-2),
    (30, "IQ4_XS", 2e-2),
    (31, "IQ1_M", 2e-2),
    (36, "TQ1_0", 2e-2),
    (37, "TQ2_0", 2e-2),
    (40, "Q1_0", 2e-2),
    (41, "Q2_0", 2e-2),
];

#[test]
fn files_of_llama_cpps_own_levels_are_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let base = quantize(&fixture("tinylm"), "F32", &folder.path().join("base"));
    // Some of its quantisers demand importances; which ones does not matter here.
    let columns =
        |tensor: &qhost_oracle::TensorInfo| (tensor.name.clone(), vec![1.0; usize::try_from(tensor.dims[0]).unwrap()]);
    let importances: BTreeMap<String, Vec<f32>> =
        Gguf::open(&base).unwrap().tensors.iter().filter(|tensor| tensor.dims.len() == 2).map(columns).collect();
    for (file_type, level, noise) in THEIRS {
        let file: PathBuf = folder.path().join(format!("{level}.gguf"));
        let recipe = Recipe { importances: importances.clone(), ..Recipe::new(file_type) };
        quantize_file(&base, &file, &recipe).unwrap();
        let (difference, loss) = difference(&file);
        assert!(difference.abs() < noise, "{level}: {difference} of {loss}");
    }
}
