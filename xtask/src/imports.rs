//! GGUF files converted to folders, read by transformers: logits and tokens have to be those of its own import of the same file,
//! or, of families that it does not import as they are, those of the checkpoint that the file was made from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    cases::within,
    conversions::{Findings, Workshop, copy},
    loaders::document,
    python::Python,
};

/// Levels of llama.cpp with a type that gguf-py does not widen, and transformers uses that.
const NOT_IMPORTED: [&str; 2] = ["Q1_0", "Q2_0"];

/// Families of `tests/fixtures/arch`; not mistral, whose window a GGUF file does not tell.
const FAMILIES: [&str; 30] = [
    "cohere",
    "deepseek_v2",
    "deepseek_v2-plain",
    "deepseek_v3",
    "exaone4-full",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "internlm3",
    "llama-headdim",
    "llama-rope3-tied",
    "mixtral",
    "olmo2",
    "phi",
    "phi3",
    "phi3-longrope",
    "qwen2",
    "qwen2-yarn",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3-every-fourth",
    "stablelm",
    "starcoder2",
];

/// Two models that are to be the same.
struct Pair {
    name: String,
    expected: PathBuf,
    converted: PathBuf,
}

const FOLDER: [&str; 4] = ["--format", "safetensors", "--level", "F32"];

/// Every level that llama.cpp writes, and every family.
pub(crate) fn run(workshop: &Workshop<'_>, python: &Python, filter: Option<&str>) -> Result<Findings> {
    let mut findings = Findings::default();
    let is_chosen = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    if is_chosen("import-of-levels") {
        let pairs = levels(workshop, &mut findings)?;
        compare(python, &qhost_tests::fixture("text/prose.tinylm.jsonl"), &pairs, &mut findings)?;
    }
    if is_chosen("import-of-families") {
        let rows = workshop.folder("models")?.join("families.jsonl");
        let text = fs::read_to_string(qhost_tests::fixture("text/prose.tinylm.jsonl"))?;
        fs::write(&rows, within(&text, 320)?)?;
        let pairs = families(workshop, &mut findings)?;
        compare(python, &rows, &pairs, &mut findings)?;
    }
    Ok(findings)
}

fn levels(workshop: &Workshop<'_>, findings: &mut Findings) -> Result<Vec<Pair>> {
    let folder = workshop.have_llama_cpp_write(&[])?;
    let mut files: Vec<_> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut pairs = Vec::new();
    for expected in files {
        let name = expected.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let converted = workshop.convert(&expected, &FOLDER, &workshop.folder("imports")?.join(&name));
        findings.keep(&name, converted, |converted| pairs.push(Pair { name: name.clone(), expected, converted }));
    }
    Ok(pairs)
}

fn families(workshop: &Workshop<'_>, findings: &mut Findings) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for name in FAMILIES {
        let expected = workshop.folder("models")?.join(format!("arch-{name}"));
        copy(&qhost_tests::fixture("arch").join(name), &expected)?;
        copy(&qhost_tests::fixture("tokenizers/bpe-gpt2"), &expected)?;
        // What is expected of the fixture is no part of the model.
        fs::remove_file(expected.join("golden.safetensors")).context("the fixture has no golden.safetensors")?;
        let folder = workshop.folder("imports")?.join(name);
        let there_and_back = |from: &Path| {
            let file = workshop.quantize(from, &["--format", "gguf", "--level", "F32"], &folder)?;
            workshop.convert(&file, &FOLDER, &folder)
        };
        let converted = there_and_back(&expected);
        findings.keep(name, converted, |converted| pairs.push(Pair { name: name.to_owned(), expected, converted }));
    }
    Ok(pairs)
}

/// Has transformers run both models of all pairs.
fn compare(python: &Python, rows: &Path, pairs: &[Pair], findings: &mut Findings) -> Result<()> {
    let mut script = python.script("transformers_pairs.py");
    let told = document(script.arg(rows).args(pairs.iter().flat_map(|pair| [&pair.expected, &pair.converted])))?;
    for (index, pair) in pairs.iter().enumerate() {
        let told = &told["pairs"][index];
        let imported = told["a_refused"].is_null();
        let known = NOT_IMPORTED.contains(&pair.name.as_str());
        let is_same = told["largest_difference"] == 0.0 && told["same_tokens"] == true;
        let sound = if known { !imported && told["b_refused"].is_null() } else { is_same };
        if !sound {
            findings.faults.push(format!("{}: transformers: {told}", pair.name));
        }
        let said = if !imported {
            "not imported by transformers"
        } else if is_same {
            "same logits and tokens"
        } else {
            "other logits or tokens"
        };
        println!("{:<22}  {said}", pair.name);
        findings.told.insert(pair.name.clone(), told.clone());
    }
    Ok(())
}
