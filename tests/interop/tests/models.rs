//! What real llama.cpp makes of our files: it loads them, and computes what transformers computes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use qhost_interop::{family, prose, quantize};
use qhost_oracle::{Model, Scored};
use qhost_tests::fixture;
use safetensors::SafeTensors;

/// Token ids and logits of transformers.
struct Golden {
    ids: Vec<Vec<i32>>,
    logits: Vec<Vec<f32>>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = fs::read(fixture("arch").join(name).join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (ids, logits) = (tensors.tensor("input_ids").unwrap(), tensors.tensor("logits").unwrap());
        let [sequences, length] = <[usize; 2]>::try_from(ids.shape()).unwrap();
        let ids: Vec<_> =
            ids.data().as_chunks::<8>().0.iter().map(|id| i32::try_from(i64::from_le_bytes(*id)).unwrap()).collect();
        let logits: Vec<_> = logits.data().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        assert_eq!(ids.len(), sequences * length);
        let each = logits.len() / sequences;
        Self {
            ids: ids.chunks(length).map(<[i32]>::to_vec).collect(),
            logits: logits.chunks(each).map(<[f32]>::to_vec).collect(),
        }
    }
}

/// The largest difference, relative to the root mean square of what is expected.
fn relative_difference(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let squares: f64 = expected.iter().map(|value| f64::from(*value).powi(2)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let rms = (squares / expected.len() as f64).sqrt();
    let differences = actual.iter().zip(expected).map(|(a, b)| f64::from(a - b).abs());
    differences.fold(0.0, f64::max) / rms
}

/// How far the logits of an F32 file are from transformers', at most; and up to which position they are
/// compared.
struct Expected {
    family: &'static str,
    difference: f64,
    positions: usize,
}

/// Sums in another order are all that is different.
const SUMS: f64 = 1e-4;
/// llama.cpp looks GELU up in a table of 16-bit floats.
const GELU_TABLE: f64 = 1e-2;

const fn as_transformers(family: &'static str) -> Expected {
    Expected { family, difference: SUMS, positions: 40 }
}

const fn by_a_table(family: &'static str) -> Expected {
    Expected { family, difference: GELU_TABLE, positions: 40 }
}

const FAMILIES: &[Expected] = &[
    as_transformers("llama"),
    as_transformers("llama-headdim"),
    as_transformers("llama-rope3-tied"),
    // Of its window of 16 tokens llama.cpp knows nothing.
    Expected { positions: 16, ..as_transformers("mistral") },
    as_transformers("mixtral"),
    as_transformers("mixtral-eight"),
    as_transformers("qwen2"),
    as_transformers("qwen2-yarn"),
    as_transformers("qwen2_moe"),
    as_transformers("qwen3"),
    as_transformers("qwen3_moe"),
    by_a_table("gemma"),
    by_a_table("gemma2"),
    by_a_table("gemma3_text"),
    as_transformers("phi3"),
    as_transformers("phi3-longrope"),
    by_a_table("phi"),
    // Its YaRN blends from fractions of a pair on, llama.cpp from whole ones (`truncate`).
    Expected { difference: 3e-2, ..as_transformers("gpt_oss") },
    as_transformers("deepseek_v2"),
    as_transformers("deepseek_v2-plain"),
    as_transformers("deepseek_v3"),
    as_transformers("glm4"),
    as_transformers("granite"),
    as_transformers("olmo2"),
    as_transformers("stablelm"),
    by_a_table("starcoder2"),
    as_transformers("smollm3-every-fourth"),
    as_transformers("cohere"),
    as_transformers("exaone4-full"),
    as_transformers("seed_oss"),
    as_transformers("internlm3"),
    by_a_table("gpt_neox"),
    by_a_table("gpt2"),
];

#[test]
fn an_f32_file_of_every_family_computes_the_logits_of_transformers() {
    let mut wrong = Vec::new();
    for Expected { family: name, difference: most, positions } in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let file = quantize(&family(name, folder.path()), "F32", folder.path());
        let Ok(model) = Model::load(&file) else {
            wrong.push(format!("{name}: not loaded"));
            continue;
        };
        let golden = Golden::read(name);
        for (ids, expected) in golden.ids.iter().zip(&golden.logits) {
            let logits = model.logits(ids).unwrap();
            let compared = positions * logits.vocabulary;
            let difference = relative_difference(&logits.values[..compared], &expected[..compared]);
            if difference >= *most {
                wrong.push(format!("{name}: {difference:e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn quantised_files_lose_as_little_perplexity_as_their_levels_should() {
    let folder = tempfile::tempdir().unwrap();
    let perplexity = |level: &str| {
        let model = Model::load(&quantize(&fixture("tinylm"), level, folder.path())).unwrap();
        model.perplexity(&prose(), 256, Scored::All).unwrap().value()
    };
    let original = perplexity("F16");
    assert!((20.0..300.0).contains(&original), "{original}");
    for (level, most) in
        [("BF16", 1.005), ("Q8_0", 1.005), ("Q6_K", 1.01), ("Q4_K_M", 1.05), ("Q3_K_L", 1.10), ("Q2_K", 1.60)]
    {
        let ratio = perplexity(level) / original;
        assert!((0.97..most).contains(&ratio), "{level}: {ratio}");
    }
}
