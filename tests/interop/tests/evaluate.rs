//! Perplexity by `qhost eval` against that of real llama.cpp, of the same files and the same text.

use std::fs;

use qhost_interop::quantize;
use qhost_oracle::{Model, Scored};
use qhost_tests::{command::Qhost, fixture};

const CTX: usize = 128;

/// By how much mean losses may differ: llama.cpp rounds activations before it multiplies them, to 16-bit floats for F16, and
/// to 8 bits block by block for quantised weights; here they stay floats. With F32 only the order of sums differs. Seen
/// were 7.5e-8, 3.3e-5, 6.0e-5 and 1.3e-3.
const NOISE: [(&str, f64); 4] = [("F32", 1e-5), ("F16", 2e-4), ("Q8_0", 5e-4), ("Q4_K_M", 4e-3)];

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
