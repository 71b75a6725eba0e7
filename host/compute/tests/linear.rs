//! Factors, inverses and solutions: what they must satisfy, for every order, on every set of instructions.

#![allow(
    clippy::cast_precision_loss,
    clippy::many_single_char_names,
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "a test"
)]

mod reference;

use proptest::prelude::*;
use qhost_compute::{Cpu, Error};
use reference::{Numbers, cpus, on_threads};

type OnMatrix = fn(&Cpu, &mut [f64], usize) -> Result<(), Error>;

/// A positive definite matrix: a Gram matrix of a few more rows than columns, and something on its diagonal.
fn definite(order: usize, seed: u64) -> Vec<f64> {
    let x: Vec<f64> = Numbers::new(seed).take((order + 3) * order).into_iter().map(f64::from).collect();
    let mut a = vec![0.0; order * order];
    for x in x.chunks(order) {
        for i in 0..order {
            for j in 0..order {
                a[i * order + j] += x[i] * x[j];
            }
        }
    }
    for i in 0..order {
        a[i * order + i] += 0.1 * order as f64;
    }
    a
}

/// `a b`, either transposed first.
fn product(a: &[f64], a_turned: bool, b: &[f64], b_turned: bool, (n, width): (usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; n * width];
    for i in 0..n {
        for j in 0..width {
            let a = |k: usize| if a_turned { a[k * n + i] } else { a[i * n + k] };
            let b = |k: usize| if b_turned { b[j * n + k] } else { b[k * width + j] };
            out[i * width + j] = (0..n).map(|k| a(k) * b(k)).sum();
        }
    }
    out
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(f64::MIN_POSITIVE, |most, b| most.max(b.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

fn identity(n: usize) -> Vec<f64> {
    (0..n * n).map(|i| f64::from(u8::from(i / n == i % n))).collect()
}

/// Only the lower triangle may be read.
fn spoiled(a: &[f64], n: usize) -> Vec<f64> {
    a.iter().enumerate().map(|(i, a)| if i % n > i / n { f64::NAN } else { *a }).collect()
}

fn check(n: usize, seed: u64) {
    let a = definite(n, seed);
    for cpu in cpus() {
        let mut l = spoiled(&a, n);
        cpu.cholesky(&mut l, n).unwrap();
        assert!(l.iter().enumerate().all(|(i, l)| i % n <= i / n || *l == 0.0));
        assert!(distance(&product(&l, false, &l, true, (n, n)), &a) < 1e-13, "{cpu:?} {n}");

        let mut inverse = spoiled(&a, n);
        cpu.inverse(&mut inverse, n).unwrap();
        assert!(distance(&product(&a, false, &inverse, false, (n, n)), &identity(n)) < 1e-10, "{cpu:?} {n}");

        let mut u = spoiled(&a, n);
        cpu.inverse_factor(&mut u, n).unwrap();
        assert!(u.iter().enumerate().all(|(i, u)| i % n >= i / n || *u == 0.0));
        assert!(distance(&product(&u, true, &u, false, (n, n)), &inverse) < 1e-11, "{cpu:?} {n}");

        let width = 1 + n % 9;
        let right: Vec<f64> = Numbers::new(seed).take(n * width).into_iter().map(f64::from).collect();
        for transposed in [false, true] {
            let mut x = right.clone();
            cpu.solve_lower(&spoiled(&l, n), n, transposed, &mut x, width).unwrap();
            assert!(distance(&product(&l, transposed, &x, false, (n, width)), &right) < 1e-11, "{cpu:?} {n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn factors_and_inverses_are_what_they_are_called(order in 1_usize..200, seed in any::<u64>()) {
        check(order, seed);
    }
}

#[test]
fn borders_of_blocks_are_right() {
    for order in [1, 63, 64, 65, 128, 129, 320, 577] {
        check(order, order as u64);
    }
}

#[test]
fn threads_change_no_bit() {
    let n = 700;
    let a = definite(n, 1);
    let tasks: [OnMatrix; 3] = [Cpu::cholesky, Cpu::inverse, Cpu::inverse_factor];
    for cpu in cpus() {
        for task in tasks {
            let run = |threads| {
                let mut a = a.clone();
                on_threads(threads, || task(&cpu, &mut a, n).unwrap());
                a.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            };
            let one = run(1);
            for threads in 2..=4 {
                assert!(run(threads) == one, "{cpu:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_matrix_that_is_not_positive_definite_is_named_with_its_pivot() {
    let n = 150;
    for bad in [-1e9, f64::NAN, f64::INFINITY] {
        let mut a = definite(n, 2);
        a[100 * n + 100] = bad;
        for cpu in cpus() {
            let found = cpu.cholesky(&mut a.clone(), n);
            assert!(matches!(found, Err(Error::NotPositiveDefinite { pivot: 100, order: 150, .. })), "{found:?}");
            let found = cpu.inverse_factor(&mut a.clone(), n);
            assert!(matches!(found, Err(Error::NotPositiveDefinite { pivot: 100, order: 150, .. })), "{found:?}");
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let cpu = Cpu::new();
    assert!(cpu.cholesky(&mut [0.0; 8], 3).is_err());
    assert!(cpu.inverse(&mut [0.0; 10], 3).is_err());
    assert!(cpu.inverse_factor(&mut [0.0; 10], 3).is_err());
    assert!(cpu.solve_lower(&[1.0; 9], 3, false, &mut [0.0; 7], 2).is_err());
}
