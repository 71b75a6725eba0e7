//! Norms, rotations, activations, moves of rows and columns, sums of columns: on every set of instructions.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "a test"
)]

mod reference;

use proptest::prelude::*;
use qhost_compute::{Activation, Columns, Cpu, Device, Norm, NormKind, Rotation};
use reference::{Numbers, bits, cpus, on_threads};

/// Numbers of all magnitudes, of both signs.
fn all_magnitudes() -> Vec<f32> {
    let mut numbers = vec![0.0, -0.0];
    for exponent in -60..8 {
        for step in 0..200 {
            let number = 2.0_f32.powi(exponent) * (1.0 + step as f32 / 200.0);
            numbers.extend([number, -number]);
        }
    }
    numbers
}

fn activated(gate: f64, activation: Activation) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Silu => gate * sigmoid(gate),
        Activation::Gelu => 0.5 * gate * libm::erfc(-gate / 2.0_f64.sqrt()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate * sigmoid(2.0 * inner)
        }
        Activation::GeluQuick => gate * sigmoid(1.702 * gate),
        Activation::Relu => gate.max(0.0),
        Activation::SquaredRelu => gate.max(0.0).powi(2),
        Activation::ClampedSwiglu { .. } => f64::NAN,
    }
}

/// Within 1e-6 of the result; where an exponential of a large number makes it small, in proportion to that number.
fn is_near(found: f32, expected: f64, argument: f64) -> bool {
    (f64::from(found) - expected).abs() <= 1e-6 * expected.abs() * argument.abs().max(1.0) + 1e-37
}

#[test]
fn activations_are_exact_to_1e_6() {
    use Activation::{Gelu, GeluQuick, GeluTanh, Relu, Silu, SquaredRelu};
    let x = all_magnitudes();
    let up = Numbers::new(1).take(x.len());
    for cpu in cpus() {
        for activation in [Silu, Gelu, GeluTanh, GeluQuick, Relu, SquaredRelu] {
            let mut alone = x.clone();
            cpu.activate(&mut alone, None, activation).unwrap();
            let mut both = x.clone();
            cpu.activate(&mut both, Some(&up), activation).unwrap();
            for (i, x) in x.iter().enumerate() {
                let gate = f64::from(*x);
                let expected = activated(gate, activation);
                let large = match activation {
                    GeluTanh if gate < -3.0 => 0.08 * gate.powi(3),
                    GeluQuick => gate,
                    _ => 1.0,
                };
                assert!(is_near(alone[i], expected, large), "{cpu:?} {activation:?} {x}: {} {expected}", alone[i]);
                assert_eq!(both[i], alone[i] * up[i], "{cpu:?} {activation:?} {x}");
            }
            let mut bad = vec![f32::NAN];
            cpu.activate(&mut bad, None, activation).unwrap();
            assert!(bad[0].is_nan(), "{cpu:?} {activation:?}");
        }
    }
}

#[test]
fn the_clamped_swiglu_clamps_both() {
    let (alpha, limit) = (1.702, 7.0);
    let gate: Vec<f32> = (-200..200).map(|i| i as f32 / 10.0).collect();
    let up: Vec<f32> = gate.iter().rev().map(|x| x * 0.77).collect();
    for cpu in cpus() {
        let mut found = gate.clone();
        cpu.activate(&mut found, Some(&up), Activation::ClampedSwiglu { alpha, limit }).unwrap();
        for ((found, gate), up) in found.iter().zip(&gate).zip(&up) {
            let gate = f64::from(gate.min(limit));
            let up = f64::from(up.clamp(-limit, limit));
            let expected = (up + 1.0) * gate / (1.0 + (-f64::from(alpha) * gate).exp());
            assert!((f64::from(*found) - expected).abs() <= 4e-6 * expected.abs(), "{cpu:?} {found} {expected}");
        }
    }
}

#[test]
fn soft_caps_are_exact_to_1e_6() {
    let x = all_magnitudes();
    for cpu in cpus() {
        for cap in [1.0, 30.0, 50.0] {
            let mut found = x.clone();
            cpu.soft_cap(&mut found, cap).unwrap();
            for (x, found) in x.iter().zip(found) {
                let cap = f64::from(cap);
                assert!(is_near(found, cap * (f64::from(*x) / cap).tanh(), 1.0), "{cpu:?} {x} {found}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norms_are_what_their_papers_say(
        (rows, groups, width) in (0_usize..20, 1_usize..4, 1_usize..150),
        (layer, gained, biased, plus_one) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers::new(seed);
        let row = groups * width;
        let x = numbers.take(rows * row);
        let gain = gained.then(|| numbers.take(row));
        let bias = biased.then(|| numbers.take(row));
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        for cpu in cpus() {
            let epsilon = 1e-5;
            let norm = Norm { kind, width, epsilon, gain: gain.as_ref(), plus_one, bias: bias.as_ref() };
            let found = cpu.norm(&x, &norm).unwrap();
            for (group, (x, found)) in x.chunks(width).zip(found.chunks(width)).enumerate() {
                let mean = if layer { x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64 } else { 0.0 };
                let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, (x, found)) in x.iter().zip(found).enumerate() {
                    let at = group % groups * width + i;
                    let one = if plus_one { 1.0 } else { 0.0 };
                    let gain = gain.as_ref().map_or(1.0, |gain| f64::from(gain[at]) + one);
                    let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[at]));
                    let deviation = (square + f64::from(epsilon)).sqrt();
                    let expected = (f64::from(*x) - mean) / deviation * gain + bias;
                    let size = (1.0 + (f64::from(x.abs()) + mean.abs()) / deviation) * gain.abs() + bias.abs();
                    let error = (f64::from(*found) - expected).abs();
                    prop_assert!(error <= 1e-6 * size, "{:?} {} {}", cpu, found, expected);
                }
            }
        }
    }

    #[test]
    fn rotations_turn_pairs(
        (rows, heads, half, before, after) in (0_usize..30, 1_usize..4, 1_usize..40, 0_usize..5, 0_usize..5),
        (interleaved, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let mut numbers = Numbers::new(seed);
        let head = before + 2 * half + after;
        let x = numbers.take(rows * heads * head);
        let positions: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 11).collect();
        let (cosines, sines) = (numbers.take(11 * half), numbers.take(11 * half));
        for cpu in cpus() {
            let mut found = x.clone();
            let rotation = Rotation {
                head, first: before, dimensions: 2 * half, interleaved, cosines: &cosines, sines: &sines,
            };
            cpu.rotate(&mut found, &positions, &rotation).unwrap();
            let mut expected = x.clone();
            for (row, position) in expected.chunks_mut(heads * head).zip(&positions) {
                for head in row.chunks_mut(head) {
                    for i in 0..half {
                        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                        let (a, b) = (before + a, before + b);
                        let angle = *position as usize * half + i;
                        let (x, y) = (head[a], head[b]);
                        head[a] = x * cosines[angle] - y * sines[angle];
                        head[b] = y * cosines[angle] + x * sines[angle];
                    }
                }
            }
            prop_assert_eq!(bits(&found), bits(&expected));
        }
    }

    #[test]
    fn rows_and_columns_move_as_told(
        (rows, first, take, gap, count, behind) in
            (1_usize..40, 0_usize..9, 1_usize..70, 0_usize..9, 1_usize..4, 0_usize..9),
        seed in any::<u64>(),
    ) {
        let columns = Columns { first, take, stride: take + gap, count };
        let width = first + count * (take + gap) + behind;
        let mut numbers = Numbers::new(seed);
        let x = numbers.take(rows * width);
        let cpu = Cpu::new();
        let taken = cpu.columns(&x, width, columns).unwrap();
        let expected: Vec<f32> = (0..rows)
            .flat_map(|row| (0..count).flat_map(move |piece| {
                (0..take).map(move |i| row * width + first + piece * (take + gap) + i)
            }))
            .map(|at| x[at])
            .collect();
        prop_assert_eq!(&taken, &expected);
        let mut back = vec![0.0; x.len()];
        cpu.place(&mut back, width, columns, &taken).unwrap();
        prop_assert_eq!(cpu.columns(&back, width, columns).unwrap(), taken);
        prop_assert_eq!(back.iter().filter(|x| **x != 0.0).count(), expected.iter().filter(|x| **x != 0.0).count());

        let named: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
        let factors = numbers.take(named.len());
        let gathered = cpu.gather(&x, width, &named).unwrap();
        let mut out = x.clone();
        cpu.scatter_add(&mut out, width, &named, &factors, &gathered).unwrap();
        for row in 0..rows {
            let factor = named.iter().position(|named| *named as usize == row).map_or(0.0, |at| factors[at]);
            for column in 0..width {
                let x = x[row * width + column];
                prop_assert_eq!(out[row * width + column], x + factor * x);
            }
        }
    }
}

#[test]
fn sums_of_columns_do_not_depend_on_threads() {
    let (rows, width) = (300, 1000);
    let x = Numbers::new(3).take(rows * width);
    for cpu in cpus() {
        let run = |threads| {
            let (mut absolute, mut squares) = (vec![1.0; width], vec![2.0; width]);
            on_threads(threads, || cpu.moments(&x, width, &mut absolute, &mut squares).unwrap());
            (absolute, squares)
        };
        let (absolute, squares) = run(1);
        for column in 0..width {
            let numbers = || x.iter().skip(column).step_by(width).map(|x| f64::from(*x));
            assert!((absolute[column] - 1.0 - numbers().map(f64::abs).sum::<f64>()).abs() < 1e-9);
            assert!((squares[column] - 2.0 - numbers().map(|x| x * x).sum::<f64>()).abs() < 1e-9);
        }
        for threads in 2..=4 {
            assert!(run(threads) == (absolute.clone(), squares.clone()));
        }
    }
}

#[test]
fn the_first_number_that_is_not_finite_is_found() {
    let mut x = vec![f32::MAX; 100_000];
    for cpu in cpus() {
        assert_eq!(cpu.first_not_finite(&x).unwrap(), None);
    }
    for at in [99_999, 70_000, 16_384, 16_383, 0] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[at] = bad;
            for cpu in cpus() {
                assert_eq!(cpu.first_not_finite(&x).unwrap(), Some(at));
            }
        }
    }
}

#[test]
fn numbers_are_added_and_scaled() {
    let x = Numbers::new(4).take(40_000);
    for cpu in cpus() {
        let mut y = vec![1.0; x.len()];
        cpu.add(&mut y, 0.5, &x).unwrap();
        cpu.scale(&mut y, 3.0).unwrap();
        assert!(y.iter().zip(&x).all(|(y, x)| *y == (1.0 + 0.5 * x) * 3.0));
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let cpu = Cpu::new();
    let x = vec![0.0; 12];
    let table = vec![0.0; 4];
    let norm = Norm { kind: NormKind::Rms, width: 5, epsilon: 0.0, gain: None, plus_one: false, bias: None };
    assert!(cpu.norm(&x, &norm).is_err());
    let rotation = Rotation { head: 4, first: 0, dimensions: 4, interleaved: false, cosines: &table, sines: &table };
    assert!(cpu.rotate(&mut x.clone(), &[0, 1, 2], &rotation).is_err());
    assert!(cpu.rotate(&mut x.clone(), &[0, 1, 1], &rotation).is_ok());
    assert!(cpu.rotate(&mut x.clone(), &[0, 1], &rotation).is_err());
    assert!(cpu.columns(&x, 4, Columns::range(2, 3)).is_err());
    assert!(cpu.place(&mut x.clone(), 4, Columns::range(0, 2), &x).is_err());
    assert!(cpu.gather(&x, 4, &[3]).is_err());
    assert!(cpu.scatter_add(&mut x.clone(), 4, &[3], &[1.0], &table).is_err());
    assert!(cpu.add(&mut x.clone(), 1.0, &table).is_err());
    assert!(cpu.moments(&x, 5, &mut [0.0; 5], &mut [0.0; 5]).is_err());
}
