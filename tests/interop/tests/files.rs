//! Whole files against `llama_model_quantize`: every level, every byte, metadata included.
//!
//! The reference gets our own F32 or BF16 file and makes the level from it; we make the level from the
//! checkpoint in one step. Nothing is left out of the comparison.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_gguf::format::LEVELS;
use qhost_interop::quantize;
use qhost_oracle::{Gguf, Recipe, quantize_file};
use qhost_tests::{checkpoint::RandomLlama, fixture};
use safetensors::Dtype;

/// Makes every level of a model both ways, starting the reference from a file of the level `base`.
fn assert_same_files(model: &Path, base: &str, levels: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let base = quantize(model, base, &folder.path().join("base"));
    for level in LEVELS.iter().filter(|level| levels.is_empty() || levels.contains(&level.name)) {
        let ours = quantize(model, level.name, folder.path());
        let reference = folder.path().join("reference.gguf");
        quantize_file(&base, &reference, &Recipe::new(level.file_type)).unwrap();
        let same = fs::read(&ours).unwrap() == fs::read(&reference).unwrap();
        assert!(same, "{} {}: {}", model.display(), level.name, difference(&ours, &reference));
    }
}

/// Says what is different.
fn difference(ours: &Path, reference: &Path) -> String {
    let difference = Gguf::open(ours).unwrap().difference(&Gguf::open(reference).unwrap());
    difference.unwrap().unwrap_or_else(|| "padding differs".into())
}

#[test]
fn tinylm_from_f32() {
    assert_same_files(&fixture("tinylm"), "F32", &[]);
}

#[test]
fn tinylm_from_bf16() {
    // Without F32 itself: the reference copies a file that is asked for in F32 as it is.
    let levels: Vec<_> = LEVELS.iter().map(|level| level.name).filter(|name| *name != "F32").collect();
    assert_same_files(&fixture("tinylm"), "BF16", &levels);
}

#[test]
fn stories260k_whose_every_tensor_needs_a_fallback() {
    assert_same_files(&fixture("stories260K"), "F32", &[]);
}

/// Dead rows, outliers, signed zeros, denormals and huge values.
#[test]
fn a_hostile_llama_with_grouped_heads() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let (_folder, model) = random(&RandomLlama { hostile: true, dtype, ..RandomLlama::default() });
        assert_same_files(&model, "F32", &[]);
    }
}

/// Rows of 288 and 800: blocks of 32 fit, super-blocks of 256 do not.
#[test]
fn odd_rows() {
    let llama = RandomLlama { hidden: 288, ffn: 800, heads: 6, kv_heads: 3, hostile: true, ..RandomLlama::default() };
    let (_folder, model) = random(&llama);
    assert_same_files(&model, "F32", &[]);
}

/// The levels whose types differ from layer to layer.
const MIXTURES: [&str; 9] = ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_M"];

/// Rules that count layers and look at the grouping: eight query heads to a key/value head, and more
/// layers than any third, eighth or sixteenth hides.
#[test]
fn mixtures_of_deep_models() {
    for (layers, kv_heads, tied) in [(9, 1, true), (17, 8, false), (34, 2, false)] {
        let llama = RandomLlama { ffn: 256, layers, heads: 8, kv_heads, tied, ..RandomLlama::default() };
        let (_folder, model) = random(&llama);
        assert_same_files(&model, "F32", &MIXTURES);
    }
}

/// Eighty layers are what llama.cpp calls 70B, if heads are grouped.
#[test]
fn mixtures_of_a_model_with_eighty_layers() {
    for kv_heads in [4, 1] {
        let llama = RandomLlama { ffn: 256, layers: 80, heads: 4, kv_heads, ..RandomLlama::default() };
        let (_folder, model) = random(&llama);
        assert_same_files(&model, "F32", &MIXTURES);
    }
}

/// Stacked experts, fused and transposed matrices, latent attention: each at the levels that most
/// rules speak of. Rows of 64 need the fallbacks; `wide_experts` has rows that fit.
#[test]
fn the_other_families() {
    for name in [
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "phi",
        "gpt_oss",
        "deepseek_v2",
        "deepseek_v3",
        "glm4",
        "granite",
        "olmo2",
        "smollm3-every-fourth",
        "stablelm",
        "starcoder2",
        "cohere",
        "exaone4-full",
        "seed_oss",
        "internlm3",
        "gpt_neox",
        "gpt2",
        "llama-headdim",
        "llama-rope3-tied",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = qhost_interop::family(name, folder.path());
        assert_same_files(&model, "F32", &["Q2_K", "Q3_K_M", "IQ4_XS", "IQ4_NL", "Q4_K_M", "Q8_0"]);
    }
}

/// Eight experts have rules of their own; other numbers count layers by name.
#[test]
fn mixtures_of_models_with_experts() {
    for (experts, layers) in [(8, 9), (4, 17)] {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("experts");
        RandomLlama { layers, experts, ffn: 256, heads: 8, kv_heads: 2, ..RandomLlama::default() }.write(&model);
        assert_same_files(&model, "F32", &MIXTURES);
        assert_same_files(&model, "F32", &["Q4_0", "Q5_1", "Q6_K", "Q8_0", "BF16"]);
    }
}

fn random(llama: &RandomLlama) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("random");
    llama.write(&model);
    (folder, model)
}
