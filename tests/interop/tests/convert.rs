//! Conversions of GGUF files to other levels, against `llama_model_quantize` with leave to quantise once more.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use qhost_gguf::{GgmlType, format::Level};
use qhost_interop::quantize;
use qhost_oracle::{Gguf, Recipe, quantize_file};
use qhost_tests::{command::Qhost, fixture};
use serde_json::Value;

fn convert(file: &Path, level: &str, output: &Path) -> (PathBuf, Value) {
    let qhost = Qhost::new(["convert", "--format", "gguf", "--level", level, "--yes", "-o"]);
    let told = qhost.arg(output).arg(file).json();
    (told["output_path"].as_str().unwrap().into(), told)
}

/// What the reference makes of a file.
fn reference(file: &Path, level: &str, output: &Path) -> Gguf {
    let recipe = Recipe { allow_requantize: true, ..Recipe::new(Level::named(level).unwrap().file_type) };
    quantize_file(file, output, &recipe).unwrap();
    Gguf::open(output).unwrap()
}

fn assert_same_tensors(ours: &Path, theirs: &Gguf, what: &str) {
    let ours = Gguf::open(ours).unwrap();
    let names = |file: &Gguf| file.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(theirs), "{what}");
    for (mine, other) in ours.tensors.iter().zip(&theirs.tensors) {
        assert_eq!((mine.ggml_type, &mine.dims), (other.ggml_type, &other.dims), "{what}: {}", mine.name);
        assert!(ours.read(mine).unwrap() == theirs.read(other).unwrap(), "{what}: the bytes of {} differ", mine.name);
    }
}

/// Where codes are not taken over: Q4_0 in Q5_1, say, has its minima rounded here, which loses less.
#[test]
fn other_levels_are_made_as_llama_cpp_makes_them() {
    let folder = tempfile::tempdir().unwrap();
    // Narrow rows fall back to types that take codes over, unless these have eight bits.
    let wide = [
        ("Q8_0", "Q4_K_M"),
        ("Q8_0", "Q4_0"),
        ("Q8_0", "IQ4_XS"),
        ("Q6_K", "Q4_K_M"),
        ("Q4_K_M", "Q3_K_M"),
        ("Q4_K_M", "Q8_0"),
        ("IQ4_XS", "IQ4_NL"),
    ];
    for (model, pairs) in
        [(fixture("tinylm"), &wide[..]), (qhost_interop::family("mixtral", folder.path()), &wide[..3])]
    {
        for (from, to) in pairs.iter().copied() {
            let folder = tempfile::tempdir().unwrap();
            let file = quantize(&model, from, &folder.path().join("from"));
            let (ours, _) = convert(&file, to, &folder.path().join("ours"));
            let theirs = reference(&file, to, &folder.path().join("theirs.gguf"));
            assert_same_tensors(&ours, &theirs, &format!("{} {from} to {to}", model.display()));
        }
    }
}

/// Its own blocks are copied where the level wants them, whatever is done to the others.
#[test]
fn tensors_that_have_the_level_s_type_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let file = quantize(&fixture("tinylm"), "Q4_K_M", &folder.path().join("from"));
    let (ours, told) = convert(&file, "Q4_K_S", &folder.path().join("ours"));
    let (from, to) = (Gguf::open(&file).unwrap(), Gguf::open(&ours).unwrap());
    let kept = from.tensors.iter().zip(&to.tensors).filter(|(one, other)| one.ggml_type == other.ggml_type);
    let mut copied = 0;
    for (one, other) in kept {
        assert!(from.read(one).unwrap() == to.read(other).unwrap(), "{}", one.name);
        copied += 1;
    }
    assert!(copied > 20 && copied < from.tensors.len(), "{copied}");
    let classes = told["conversion"]["classes"].as_array().unwrap();
    let exact =
        |encoding: &str| classes.iter().any(|class| class["encoding"] == encoding && class["fidelity"] == "exact");
    assert!(exact("Q4_K") && exact("Q6_K") && exact("F32"), "{classes:#?}");
}

/// Types of which most are read and not written: the numbers are those of ggml, and so are the bytes that are made of them.
#[test]
fn files_with_other_types_convert() {
    let folder = tempfile::tempdir().unwrap();
    let base = quantize(&fixture("tinylm"), "F32", &folder.path().join("base"));
    for (file_type, from) in [(25, "IQ4_NL"), (30, "IQ4_XS"), (26, "IQ3_S"), (36, "TQ1_0"), (37, "TQ2_0")] {
        let file = folder.path().join(format!("{from}.gguf"));
        quantize_file(&base, &file, &Recipe::new(file_type)).unwrap();
        assert!(
            Gguf::open(&file)
                .unwrap()
                .tensors
                .iter()
                .any(|tensor| { GgmlType::numbered(tensor.ggml_type).unwrap().name == from })
        );
        let (ours, _) = convert(&file, "Q4_K_M", &folder.path().join(format!("{from}-ours")));
        let theirs = reference(&file, "Q4_K_M", &folder.path().join(format!("{from}-theirs.gguf")));
        assert_same_tensors(&ours, &theirs, &format!("{from} to Q4_K_M"));
    }
}
