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

#[test]
fn an_f32_file_of_every_family_computes_the_logits_of_transformers() {
    // Of mistral, whose window of 16 tokens llama.cpp does not know, what comes before the window's end.
    for (name, positions) in
        [("llama", 40), ("llama-headdim", 40), ("llama-rope3-tied", 40), ("mistral", 16), ("qwen2", 40), ("qwen3", 40)]
    {
        let folder = tempfile::tempdir().unwrap();
        let file = quantize(&family(name, folder.path()), "F32", folder.path());
        let model = Model::load(&file).unwrap();
        let golden = Golden::read(name);
        for (ids, expected) in golden.ids.iter().zip(&golden.logits) {
            let logits = model.logits(ids).unwrap();
            let compared = positions * logits.vocabulary;
            let difference = relative_difference(&logits.values[..compared], &expected[..compared]);
            assert!(difference < 1e-4, "{name}: {difference:e}");
        }
    }
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
