//! Attention: grouped heads, windows, sinks, soft caps and any lengths, on every set of instructions.

#![allow(clippy::cast_precision_loss, clippy::float_cmp, clippy::unwrap_used, reason = "a test")]

mod reference;

use proptest::prelude::*;
use qhost_compute::{Attention, Cpu, Device};
use reference::{Numbers, bits, cpus, on_threads};

struct Operands {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    sinks: Vec<f32>,
}

fn operands(shape: &Attention, rows: usize, seed: u64) -> Operands {
    let mut numbers = Numbers::new(seed);
    Operands {
        q: numbers.take(rows * shape.heads * shape.key),
        k: numbers.take(rows * shape.kv_heads * shape.key),
        v: numbers.take(rows * shape.kv_heads * shape.value),
        sinks: numbers.take(shape.heads),
    }
}

fn run(cpu: Cpu, operands: &Operands, lengths: &[usize], shape: &Attention, sinks: bool) -> Vec<f32> {
    let Operands { q, k, v, .. } = operands;
    cpu.attention(q, k, v, lengths, shape, sinks.then_some(&operands.sinks)).unwrap()
}

fn check(lengths: &[usize], shape: &Attention, sinks: bool, seed: u64) {
    let operands = operands(shape, lengths.iter().sum(), seed);
    let Operands { q, k, v, .. } = &operands;
    let expected = reference::attention((q, k, v), lengths, shape, sinks.then_some(&operands.sinks));
    for cpu in cpus() {
        let found = run(cpu, &operands, lengths, shape, sinks);
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 3e-6, "{cpu:?} {i}: {found} instead of {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_softmax_of_what_a_query_sees(
        lengths in proptest::collection::vec(0_usize..90, 1..4),
        (kv_heads, group, key, value) in (1_usize..3, 1_usize..4, 1_usize..40, 1_usize..40),
        soft_cap in proptest::option::of(1.0_f32..60.0),
        window in proptest::option::of(1_usize..100),
        (sinks, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let scale = 1.0 / (key as f32).sqrt();
        check(&lengths, &Attention { heads: kv_heads * group, kv_heads, key, value, scale, soft_cap, window }, sinks, seed);
    }
}

#[test]
fn long_sequences_take_several_blocks_of_keys() {
    let shape = Attention { heads: 2, kv_heads: 1, key: 24, value: 20, scale: 0.3, soft_cap: None, window: None };
    check(&[700, 1, 300], &shape, false, 1);
    check(&[700, 1, 300], &shape, true, 2);
    check(&[900], &Attention { window: Some(270), ..shape }, false, 3);
    check(&[900], &Attention { window: Some(5), soft_cap: Some(3.0), ..shape }, true, 4);
}

#[test]
fn large_scores_overflow_nothing() {
    let shape = Attention { heads: 2, kv_heads: 2, key: 8, value: 8, scale: 300.0, soft_cap: None, window: None };
    let operands = operands(&shape, 300, 5);
    for cpu in cpus() {
        assert!(run(cpu, &operands, &[300], &shape, false).iter().all(|number| number.is_finite()));
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let shape = Attention { heads: 1, kv_heads: 1, key: 8, value: 8, scale: 1.0, soft_cap: None, window: None };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut operands = operands(&shape, 40, 6);
        operands.q[17 * 8] = bad;
        for cpu in cpus() {
            let found = run(cpu, &operands, &[40], &shape, false);
            assert!(found[17 * 8..18 * 8].iter().all(|number| number.is_nan()), "{cpu:?}");
            assert!(found[..17 * 8].iter().chain(&found[18 * 8..]).all(|number| number.is_finite()), "{cpu:?}");
        }
    }
}

#[test]
fn threads_and_batches_change_no_bit() {
    let shape = Attention { heads: 4, kv_heads: 2, key: 16, value: 12, scale: 0.25, soft_cap: None, window: Some(300) };
    let lengths = [400, 37, 290];
    let operands = operands(&shape, 727, 7);
    for cpu in cpus() {
        let whole = on_threads(1, || run(cpu, &operands, &lengths, &shape, true));
        for threads in 2..=4 {
            let found = on_threads(threads, || run(cpu, &operands, &lengths, &shape, true));
            assert_eq!(bits(&found), bits(&whole), "{cpu:?}, {threads} threads");
        }
        // The second sequence alone, and the start of the first.
        for (rows, length) in [(400..437, 37), (0..300, 300)] {
            let alone = Operands {
                q: operands.q[rows.start * 64..rows.end * 64].to_vec(),
                k: operands.k[rows.start * 32..rows.end * 32].to_vec(),
                v: operands.v[rows.start * 24..rows.end * 24].to_vec(),
                sinks: operands.sinks.clone(),
            };
            let found = run(cpu, &alone, &[length], &shape, true);
            assert_eq!(bits(&found), bits(&whole[rows.start * 48..rows.end * 48]), "{cpu:?}");
        }
    }
}
