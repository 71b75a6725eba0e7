//! Perplexity by `qhost eval` against that of real llama.cpp, of the same files and the same text.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use qhost_interop::quantize;
use qhost_oracle::{Model, Scored};
use qhost_tests::{command::Qhost, fixture};

const CTX: usize = 128;

/// llama.cpp rounds activations to 8 bits before it multiplies them with quantised weights, block by block; here they
/// stay floats. With such small models that moves the mean loss by some thousandths. Floats are multiplied as floats in
/// both, and only the order of sums differs.
const NOISE: [(&str, f64); 4] = [("F32", 1e-4), ("F16", 2e-3), ("Q8_0", 5e-3), ("Q4_K_M", 1e-2)];

#[test]
fn perplexity_is_that_of_llama_cpp_within_its_arithmetic_noise() {
    let text = fixture("text").join("prose.txt");
    for model in ["tinylm", "stories260K"] {
        for (level, noise) in NOISE {
            let folder = tempfile::tempdir().unwrap();
            let file = quantize(&fixture(model), level, folder.path());
            let ctx = CTX.to_string();
            let told = Qhost::new(["eval", "--score", "second-half", "--ctx", &ctx, "--dataset"]).arg(&text).arg(&file);
            let told = told.json();
            let theirs = Model::load(&file).unwrap();
            let theirs = theirs.perplexity(&fs::read_to_string(&text).unwrap(), CTX, Scored::SecondHalf).unwrap();
            assert_eq!(told["tokens"], theirs.scored, "{model} {level}");
            let difference = told["mean_nll"].as_f64().unwrap() - theirs.mean_nll;
            assert!(difference.abs() < noise, "{model} {level}: {difference} of {}", theirs.mean_nll);
        }
    }
}
