//! Matrix products and Gram matrices: every shape, every way of storing, every set of instructions.

#![allow(clippy::cast_precision_loss, clippy::float_cmp, clippy::unwrap_used, reason = "a test")]

mod reference;

use proptest::prelude::*;
use qhost_compute::{Cpu, Device, Dtype, InstructionSet, Stored};
use reference::{Numbers, bits, cpus, on_threads};

fn dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::BF16)]
}

fn is_near(found: f64, (expected, magnitude): (f64, f64)) -> bool {
    (found - expected).abs() <= 2e-6 * magnitude
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_linear_is_the_product(
        (rows, inputs, outputs) in (0_usize..70, 1_usize..600, 1_usize..90),
        dtype in dtype(),
        (transposed, biased, skip, seed) in (any::<bool>(), any::<bool>(), 0_usize..4, any::<u64>()),
    ) {
        let mut numbers = Numbers::new(seed);
        let x = numbers.take(rows * inputs);
        let bytes = reference::store(&numbers.take(inputs * outputs), dtype, skip);
        let bias = biased.then(|| numbers.take(outputs));
        let stored = Stored { bytes: &bytes[skip..], dtype, outputs, inputs, transposed };
        let expected = reference::linear(&x, &stored, bias.as_deref());
        for cpu in cpus() {
            let found = cpu.linear(&x, rows, &cpu.matrix(stored).unwrap(), bias.as_ref()).unwrap();
            prop_assert_eq!(found.len(), expected.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                prop_assert!(is_near(f64::from(*found), *expected), "{:?} {}: {} {:?}", cpu, i, found, expected);
            }
        }
    }

    #[test]
    fn a_cross_product_is_the_product_of_the_one_turned_with_the_other(
        (rows, height, width) in (0_usize..600, 1_usize..100, 1_usize..100),
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers::new(seed);
        let (a, b) = (numbers.take(rows * height), numbers.take(rows * width));
        let before = numbers.take(height * width);
        let expected = reference::cross((&a, height), (&b, width));
        for cpu in cpus() {
            let mut found = before.clone();
            cpu.cross(&a, &b, (height, width), &mut found).unwrap();
            for (at, (found, (sum, magnitude))) in found.iter().zip(&expected).enumerate() {
                let start = f64::from(before[at]);
                prop_assert!(is_near(f64::from(*found), (start + sum, start.abs() + magnitude)), "{:?} {}", cpu, at);
            }
        }
    }

    #[test]
    fn a_gram_matrix_is_the_product_with_itself(
        (rows, width) in (0_usize..600, 1_usize..100),
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers::new(seed);
        let x = numbers.take(rows * width);
        let before = numbers.take(width * width);
        let expected = reference::gram(&x, width);
        for cpu in cpus() {
            let mut narrow = before.clone();
            cpu.gram(&x, width, &mut narrow).unwrap();
            let mut wide: Vec<f64> = before.iter().copied().map(f64::from).collect();
            cpu.gram_f64(&x, width, &mut wide).unwrap();
            for i in 0..width {
                for j in 0..width {
                    let at = i * width + j;
                    if j > i {
                        prop_assert!(narrow[at] == before[at] && wide[at] == f64::from(before[at]));
                        continue;
                    }
                    let start = f64::from(before[at]);
                    let expected = (start + expected[at].0, start.abs() + expected[at].1);
                    prop_assert!(is_near(f64::from(narrow[at]), expected), "{:?} {} {}", cpu, i, j);
                    prop_assert!(is_near(wide[at], expected), "{:?} {} {}", cpu, i, j);
                }
            }
        }
    }
}

#[test]
fn every_half_is_widened_as_it_is() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [Dtype::F16, Dtype::BF16] {
        for transposed in [false, true] {
            let stored = Stored { bytes: &bytes, dtype, outputs: 1 << 16, inputs: 1, transposed };
            let expected = reference::widen(&stored);
            for cpu in cpus() {
                let found = cpu.linear(&vec![1.0], 1, &stored, None).unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    let found = f64::from(*found);
                    assert!(found == *expected || found.is_nan() && expected.is_nan(), "{cpu:?} {found} {expected}");
                }
            }
        }
    }
}

#[test]
fn threads_and_batches_change_no_bit() {
    let (rows, inputs, outputs) = (150, 700, 300);
    let mut numbers = Numbers::new(1);
    let x = numbers.take(rows * inputs);
    let bytes = reference::store(&numbers.take(inputs * outputs), Dtype::BF16, 0);
    let stored = Stored { bytes: &bytes, dtype: Dtype::BF16, outputs, inputs, transposed: false };
    for cpu in cpus() {
        let whole = on_threads(1, || cpu.linear(&x, rows, &stored, None).unwrap());
        let mut gram = vec![0.0; inputs * inputs];
        on_threads(1, || cpu.gram(&x, inputs, &mut gram).unwrap());
        let y = &whole;
        let mut cross = vec![0.0; inputs * outputs];
        on_threads(1, || cpu.cross(&x, y, (inputs, outputs), &mut cross).unwrap());
        for threads in 2..=4 {
            let found = on_threads(threads, || cpu.linear(&x, rows, &stored, None).unwrap());
            assert_eq!(bits(&found), bits(&whole), "{cpu:?}, {threads} threads");
            let mut found = vec![0.0; inputs * inputs];
            on_threads(threads, || cpu.gram(&x, inputs, &mut found).unwrap());
            assert_eq!(bits(&found), bits(&gram), "{cpu:?}, {threads} threads");
            let mut found = vec![0.0; inputs * outputs];
            on_threads(threads, || cpu.cross(&x, y, (inputs, outputs), &mut found).unwrap());
            assert_eq!(bits(&found), bits(&cross), "{cpu:?}, {threads} threads");
        }
        for batch in [1, 7, 64] {
            let parts = x.chunks(batch * inputs);
            let found: Vec<f32> =
                parts.flat_map(|x| cpu.linear(&x.to_vec(), x.len() / inputs, &stored, None).unwrap()).collect();
            assert_eq!(bits(&found), bits(&whole), "{cpu:?}, {batch} rows");
        }
    }
}

#[test]
fn sets_with_fused_multiplication_agree_bit_by_bit() {
    let (rows, inputs, outputs) = (40, 700, 100);
    let mut numbers = Numbers::new(2);
    let x = numbers.take(rows * inputs);
    let bytes = reference::store(&numbers.take(inputs * outputs), Dtype::F32, 0);
    let stored = Stored { bytes: &bytes, dtype: Dtype::F32, outputs, inputs, transposed: false };
    let fused = cpus().filter(|cpu| cpu.instruction_set() != InstructionSet::Portable);
    let results: Vec<_> = fused.map(|cpu| bits(&cpu.linear(&x, rows, &stored, None).unwrap())).collect();
    for result in &results {
        assert_eq!(result, &results[0]);
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let cpu = Cpu::default();
    let stored = Stored { bytes: &[0; 24], dtype: Dtype::F32, outputs: 2, inputs: 3, transposed: false };
    assert!(cpu.linear(&vec![0.0; 7], 2, &stored, None).is_err());
    assert!(cpu.linear(&vec![0.0; 6], 2, &stored, Some(&vec![0.0; 3])).is_err());
    assert!(cpu.matrix(Stored { inputs: 4, ..stored }).is_err());
    assert!(cpu.gram(&vec![0.0; 7], 3, &mut vec![0.0; 9]).is_err());
    assert!(cpu.gram(&vec![0.0; 6], 3, &mut vec![0.0; 8]).is_err());
    assert!(cpu.cross(&vec![0.0; 6], &vec![0.0; 6], (3, 2), &mut vec![0.0; 6]).is_err());
    assert!(cpu.cross(&vec![0.0; 6], &vec![0.0; 4], (3, 2), &mut vec![0.0; 5]).is_err());
}
