//! Likelihoods and divergences, against `f64`.

#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test")]

mod reference;

use proptest::prelude::*;
use qhost_compute::Cpu;
use reference::{Numbers, cpus, on_threads};

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - f64::from(most)).exp()).sum();
    row.iter().map(|x| f64::from(*x) - f64::from(most) - sum.ln()).collect()
}

fn first_largest(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_are_what_their_names_say(
        (rows, vocabulary) in (0_usize..6, 1_usize..2000),
        (spread, noise, seed) in (0.1_f32..30.0, 0.0_f32..2.0, any::<u64>()),
    ) {
        let mut numbers = Numbers::new(seed);
        let p: Vec<f32> = numbers.take(rows * vocabulary).into_iter().map(|x| x * spread).collect();
        let q: Vec<f32> = numbers.take(rows * vocabulary).iter().zip(&p).map(|(x, p)| p + noise * x).collect();
        let targets: Vec<u32> = (0..rows).map(|row| (row * 977 % vocabulary) as u32).collect();
        for cpu in cpus() {
            let likelihoods = cpu.negative_log_likelihood(&p, vocabulary, &targets).unwrap();
            let divergences = cpu.divergence(&p, &q, vocabulary).unwrap();
            prop_assert_eq!((likelihoods.len(), divergences.len()), (rows, rows));
            for row in 0..rows {
                let (p, q) = (&p[row * vocabulary..][..vocabulary], &q[row * vocabulary..][..vocabulary]);
                let (log_p, log_q) = (log_softmax(p), log_softmax(q));
                let expected = -log_p[targets[row] as usize];
                prop_assert!((likelihoods[row] - expected).abs() < 3e-7, "{} {}", likelihoods[row], expected);
                let kl: f64 = log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum();
                let found = divergences[row];
                prop_assert!((found.kl - kl).abs() < 5e-7 * (1.0 + f64::from(noise)), "{} {}", found.kl, kl);
                prop_assert_eq!(found.same_top, first_largest(p) == first_largest(q));
            }
        }
    }
}

#[test]
fn a_distribution_is_not_apart_from_itself() {
    let p = Numbers::new(1).take(3 * 5000);
    for cpu in cpus() {
        for row in cpu.divergence(&p, &p, 5000).unwrap() {
            assert!(row.kl.abs() < 1e-15 && row.same_top, "{cpu:?} {row:?}");
        }
    }
}

#[test]
fn what_cannot_be_has_no_weight() {
    let p = [0.0, 1.0, f32::NEG_INFINITY, -200.0];
    let q = [0.5, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
    for cpu in cpus() {
        let found = cpu.divergence(&p, &q, 4).unwrap();
        assert!(found[0].kl.is_finite() && found[0].kl > 0.0 && found[0].same_top, "{cpu:?} {found:?}");
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let mut p = Numbers::new(2).take(200);
    let q = p.clone();
    p[77] = f32::NAN;
    for cpu in cpus() {
        assert!(cpu.negative_log_likelihood(&p, 100, &[0, 0]).unwrap()[0].is_nan());
        assert!(cpu.negative_log_likelihood(&p, 100, &[0, 0]).unwrap()[1].is_finite());
        assert!(cpu.divergence(&p, &q, 100).unwrap()[0].kl.is_nan());
        assert!(cpu.divergence(&q, &p, 100).unwrap()[0].kl.is_nan());
    }
}

#[test]
fn threads_change_no_bit() {
    let mut numbers = Numbers::new(3);
    let (p, q) = (numbers.take(64 * 1000), numbers.take(64 * 1000));
    for cpu in cpus() {
        let run = |threads| {
            on_threads(threads, || {
                let targets = [7; 64];
                (cpu.negative_log_likelihood(&p, 1000, &targets).unwrap(), cpu.divergence(&p, &q, 1000).unwrap())
            })
        };
        assert!(run(1) == run(3));
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let cpu = Cpu::new();
    assert!(cpu.negative_log_likelihood(&[0.0; 6], 3, &[0]).is_err());
    assert!(cpu.negative_log_likelihood(&[0.0; 6], 3, &[0, 3]).is_err());
    assert!(cpu.divergence(&[0.0; 6], &[0.0; 3], 3).is_err());
    assert!(cpu.divergence(&[0.0; 4], &[0.0; 4], 3).is_err());
}
