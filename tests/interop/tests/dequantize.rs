//! Every type of ggml, widened as ggml widens it: random blocks, and blocks of its own quantisers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../../plugins/gguf/ggml/tests/golden/inputs.rs"]
mod inputs;

use inputs::{DISTRIBUTIONS, IMPORTANCES, Random};
use qhost_ggml::GgmlType;
use qhost_oracle::{dequantize, quantize_chunk_weighted};

/// Floats to compare; a multiple of every block.
const ROW: usize = 1024;

/// Some of ggml's quantisers abort on what is far from any weight, so only these distributions are taken.
const USUAL: [&str; 7] = ["gauss", "gauss-wide", "sparse", "outliers", "zeros", "squares", "ones"];

fn ours(ggml_type: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.len() as u64 / ggml_type.block_bytes;
    let mut out = vec![f32::MAX; usize::try_from(blocks * ggml_type.block_elements).unwrap()];
    ggml_type.dequantize(bytes, &mut out);
    out
}

/// Compares bits; a NaN is a NaN, since its payload depends on the order of operands.
fn assert_same(ggml_type: GgmlType, bytes: &[u8], what: &str) {
    let (ours, theirs) = (ours(ggml_type, bytes), dequantize(ggml_type.number, bytes).unwrap());
    assert_eq!(ours.len(), theirs.len());
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
    let wrong = ours.iter().zip(&theirs).position(differs);
    assert_eq!(wrong, None, "{} of {what}: {:?}", ggml_type.name, wrong.map(|at| (ours[at], theirs[at])));
}

#[test]
fn what_holds_weights_is_what_ggml_widens() {
    for known in GgmlType::all() {
        let none = vec![0; usize::try_from(known.block_bytes).unwrap()];
        assert_eq!(known.holds_weights(), dequantize(known.number, &none).is_ok(), "{}", known.name);
    }
}

/// So many that every entry of every codebook comes, with every sign and scale.
#[test]
fn random_blocks_are_widened_as_ggml_widens_them() {
    for known in GgmlType::all().filter(|known| known.holds_weights()) {
        let mut random = Random::new(u64::from(known.number));
        for _ in 0..64 {
            let bytes: Vec<u8> = (0..64 * known.block_bytes).map(|_| random.bits(8).to_le_bytes()[0]).collect();
            assert_same(known, &bytes, "random bytes");
        }
        for byte in 0..=255 {
            assert_same(known, &vec![byte; usize::try_from(known.block_bytes).unwrap()], "one byte");
        }
    }
}

/// What its quantisers make, with an importance matrix, which some of them demand.
#[test]
fn blocks_of_ggmls_quantisers_are_widened_as_ggml_widens_them() {
    for known in GgmlType::all().filter(|known| known.holds_weights()) {
        for (importance, make_columns) in IMPORTANCES.into_iter().filter(|(name, _)| USUAL.contains(name)) {
            for (name, make) in DISTRIBUTIONS.into_iter().filter(|(name, _)| USUAL.contains(name)) {
                let columns = make_columns(&mut Random::new(11), ROW);
                let x = make(&mut Random::new(u64::from(known.number) + 100), 2 * ROW);
                let bytes = quantize_chunk_weighted(known.number, &x, &columns).unwrap();
                assert_same(known, &bytes, &format!("{name}, {importance}"));
            }
        }
    }
}
