//! The GPU against the CPU: every operation on random shapes. These tests need an NVIDIA GPU.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "a test"
)]

mod reference;

use proptest::prelude::*;
use qhost_compute::{
    Activation, Attention, Columns, Cpu, Cuda, Device, Dtype, Norm, NormKind, Numbers as OnDevice, Rotation, Stored,
};
use reference::Numbers;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn cuda() -> Cuda {
    Cuda::open(0).unwrap()
}

fn fetch(cuda: &Cuda, buffer: &OnDevice) -> Vec<f32> {
    let mut out = vec![f32::NAN; cuda.length(buffer)];
    cuda.download(buffer, &mut out).unwrap();
    out
}

/// Within `error` of the largest magnitude, or of 1; what is not a number is so on both.
fn assert_near(found: &[f32], expected: &[f32], error: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1.0_f32, |most, x| most.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= error * largest;
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(near || same, "{i}: {found} instead of {expected}");
    }
}

/// Something there, or not.
fn sent(cuda: &Cuda, numbers: Option<&Vec<f32>>) -> Option<OnDevice> {
    numbers.map(|numbers| cuda.upload(numbers).unwrap())
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn linears(
        (rows, inputs, outputs) in (0_usize..70, 1_usize..600, 1_usize..90),
        dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::BF16)],
        (transposed, biased, skip, seed) in (any::<bool>(), any::<bool>(), 0_usize..4, any::<u64>()),
    ) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let mut numbers = Numbers::new(seed);
        let x = numbers.take(rows * inputs);
        let bytes = reference::store(&numbers.take(inputs * outputs), dtype, skip);
        let bias = biased.then(|| numbers.take(outputs));
        let stored = Stored { bytes: &bytes[skip..], dtype, outputs, inputs, transposed };
        let expected = cpu.linear(&x, rows, &stored, bias.as_ref()).unwrap();
        let bias = sent(&cuda, bias.as_ref());
        let weights = cuda.matrix(stored).unwrap();
        let found = cuda.linear(&cuda.upload(&x).unwrap(), rows, &weights, bias.as_ref()).unwrap();
        assert_near(&fetch(&cuda, &found), &expected, 1e-5);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn norms(
        (rows, groups, width) in (0_usize..20, 1_usize..4, 1_usize..700),
        (layer, gained, biased, plus_one) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let mut numbers = Numbers::new(seed);
        let row = groups * width;
        let x = numbers.take(rows * row);
        let gain = gained.then(|| numbers.take(row));
        let bias = biased.then(|| numbers.take(row));
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        let epsilon = 1e-5;
        let norm = Norm { kind, width, epsilon, gain: gain.as_ref(), plus_one, bias: bias.as_ref() };
        let expected = cpu.norm(&x, &norm).unwrap();
        let (gain, bias) = (sent(&cuda, gain.as_ref()), sent(&cuda, bias.as_ref()));
        let norm = Norm { kind, width, epsilon, gain: gain.as_ref(), plus_one, bias: bias.as_ref() };
        let found = cuda.norm(&cuda.upload(&x).unwrap(), &norm).unwrap();
        assert_near(&fetch(&cuda, &found), &expected, 1e-5);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn rotations(
        (rows, heads, half, before, after) in (0_usize..30, 1_usize..4, 0_usize..40, 0_usize..5, 1_usize..5),
        (interleaved, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let mut numbers = Numbers::new(seed);
        let (head, dimensions) = (before + 2 * half + after, 2 * half);
        let mut x = numbers.take(rows * heads * head);
        let positions: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 11).collect();
        let (cosines, sines) = (numbers.take(11 * half), numbers.take(11 * half));
        let mut found = cuda.upload(&x).unwrap();
        let rotation =
            Rotation { head, first: before, dimensions, interleaved, cosines: &cosines, sines: &sines };
        cpu.rotate(&mut x, &positions, &rotation).unwrap();
        let (cosines, sines) = (cuda.upload(&cosines).unwrap(), cuda.upload(&sines).unwrap());
        let rotation =
            Rotation { head, first: before, dimensions, interleaved, cosines: &cosines, sines: &sines };
        cuda.rotate(&mut found, &positions, &rotation).unwrap();
        assert_near(&fetch(&cuda, &found), &x, 1e-6);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn attentions(
        lengths in proptest::collection::vec(0_usize..200, 1..4),
        (kv_heads, group, key, value) in (1_usize..3, 1_usize..4, 1_usize..80, 1_usize..280),
        soft_cap in proptest::option::of(1.0_f32..60.0),
        window in proptest::option::of(1_usize..200),
        (with_sinks, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let scale = 1.0 / (key as f32).sqrt();
        let shape = Attention { heads: kv_heads * group, kv_heads, key, value, scale, soft_cap, window };
        let rows: usize = lengths.iter().sum();
        let mut numbers = Numbers::new(seed);
        let q = numbers.take(rows * shape.heads * key);
        let k = numbers.take(rows * kv_heads * key);
        let v = numbers.take(rows * kv_heads * value);
        let sinks = with_sinks.then(|| numbers.take(shape.heads));
        let expected = cpu.attention(&q, &k, &v, &lengths, &shape, sinks.as_ref()).unwrap();
        let [q, k, v] = [q, k, v].map(|numbers| cuda.upload(&numbers).unwrap());
        let sinks = sent(&cuda, sinks.as_ref());
        let found = cuda.attention(&q, &k, &v, &lengths, &shape, sinks.as_ref()).unwrap();
        assert_near(&fetch(&cuda, &found), &expected, 5e-6);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn moves(
        (rows, first, take, gap, count, behind) in
            (1_usize..40, 0_usize..9, 1_usize..70, 0_usize..9, 1_usize..4, 0_usize..9),
        seed in any::<u64>(),
    ) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let columns = Columns { first, take, stride: take + gap, count };
        let width = first + count * (take + gap) + behind;
        let mut numbers = Numbers::new(seed);
        let mut x = numbers.take(rows * width);
        let mut on_device = cuda.upload(&x).unwrap();
        let taken = cpu.columns(&x, width, columns).unwrap();
        let found = cuda.columns(&on_device, width, columns).unwrap();
        prop_assert_eq!(fetch(&cuda, &found), taken);

        let other = numbers.take(rows * columns.width());
        cpu.place(&mut x, width, columns, &other).unwrap();
        cuda.place(&mut on_device, width, columns, &cuda.upload(&other).unwrap()).unwrap();
        prop_assert_eq!(&fetch(&cuda, &on_device), &x);

        let named: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
        let factors = numbers.take(named.len());
        let gathered = cpu.gather(&x, width, &named).unwrap();
        let found = cuda.gather(&on_device, width, &named).unwrap();
        prop_assert_eq!(&fetch(&cuda, &found), &gathered);
        cpu.scatter_add(&mut x, width, &named, &factors, &gathered).unwrap();
        cuda.scatter_add(&mut on_device, width, &named, &factors, &found).unwrap();
        assert_near(&fetch(&cuda, &on_device), &x, 1e-6);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn gram_matrices((rows, width) in (0_usize..3000, 1_usize..70), seed in any::<u64>()) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let mut numbers = Numbers::new(seed);
        let x = numbers.take(rows * width);
        let before = numbers.take(width * width);
        let on_device = cuda.upload(&x).unwrap();
        let mut expected = before.clone();
        cpu.gram(&x, width, &mut expected).unwrap();
        let mut found = cuda.upload(&before).unwrap();
        cuda.gram(&on_device, width, &mut found).unwrap();
        assert_near(&fetch(&cuda, &found), &expected, 1e-5);

        let mut expected: Vec<f64> = before.iter().copied().map(f64::from).collect();
        let mut found = expected.clone();
        Device::gram_f64(&cpu, &x, width, &mut expected).unwrap();
        cuda.gram_f64(&on_device, width, &mut found).unwrap();
        let largest = expected.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
        prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6 * largest));
        for i in 0..width {
            for at in i * width + i + 1..(i + 1) * width {
                prop_assert_eq!(found[at].to_bits(), f64::from(before[at]).to_bits());
            }
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn cross_products((rows, height, width) in (0_usize..3000, 1_usize..70, 1_usize..70), seed in any::<u64>()) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let mut numbers = Numbers::new(seed);
        let (a, b) = (numbers.take(rows * height), numbers.take(rows * width));
        let mut expected = numbers.take(height * width);
        let mut found = cuda.upload(&expected).unwrap();
        cpu.cross(&a, &b, (height, width), &mut expected).unwrap();
        cuda.cross(&cuda.upload(&a).unwrap(), &cuda.upload(&b).unwrap(), (height, width), &mut found).unwrap();
        assert_near(&fetch(&cuda, &found), &expected, 1e-5);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
    fn sums_of_columns((rows, width) in (0_usize..700, 1_usize..600), seed in any::<u64>()) {
        let (cpu, cuda) = (Cpu::new(), cuda());
        let x = Numbers::new(seed).take(rows * width);
        let (mut absolute, mut squares) = (vec![1.0; width], vec![2.0; width]);
        let (mut found, mut found_squares) = (absolute.clone(), squares.clone());
        cpu.moments(&x, width, &mut absolute, &mut squares).unwrap();
        cuda.moments(&cuda.upload(&x).unwrap(), width, &mut found, &mut found_squares).unwrap();
        let pairs = found.iter().zip(&absolute).chain(found_squares.iter().zip(&squares));
        prop_assert!(pairs.into_iter().all(|(found, expected)| (found - expected).abs() <= 1e-12 * expected));
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn every_half_is_widened_as_it_is() {
    let cuda = cuda();
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let one = cuda.upload(&[1.0]).unwrap();
    for dtype in [Dtype::F16, Dtype::BF16] {
        let stored = Stored { bytes: &bytes, dtype, outputs: 1 << 16, inputs: 1, transposed: false };
        let found = fetch(&cuda, &cuda.linear(&one, 1, &cuda.matrix(stored).unwrap(), None).unwrap());
        for (found, expected) in found.iter().zip(reference::widen(&stored)) {
            let found = f64::from(*found);
            // A sum of -0 with 0 is 0.
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{found} {expected}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn activations() {
    use Activation::{ClampedSwiglu, Gelu, GeluQuick, GeluTanh, Relu, Silu, SquaredRelu};
    let (cpu, cuda) = (Cpu::new(), cuda());
    let mut numbers = Numbers::new(1);
    let mut x: Vec<f32> = numbers.take(70_000).into_iter().map(|x| x * 8.0).collect();
    x.extend([0.0, -0.0, 100.0, -100.0, f32::NAN]);
    let up: Vec<f32> = numbers.take(x.len()).into_iter().map(|x| x * 5.0).collect();
    let clamped = ClampedSwiglu { alpha: 1.702, limit: 7.0 };
    for activation in [Silu, Gelu, GeluTanh, GeluQuick, Relu, SquaredRelu, clamped] {
        for up in [None, Some(&up)] {
            let mut expected = x.clone();
            cpu.activate(&mut expected, up, activation).unwrap();
            let mut found = cuda.upload(&x).unwrap();
            cuda.activate(&mut found, sent(&cuda, up).as_ref(), activation).unwrap();
            for ((x, found), expected) in x.iter().zip(fetch(&cuda, &found)).zip(expected) {
                let near = (found - expected).abs() <= 4e-6 * expected.abs() * x.abs().max(1.0) + 1e-30;
                assert!(near || found.is_nan() && expected.is_nan(), "{activation:?} {x}: {found} {expected}");
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn sums_factors_and_soft_caps() {
    let (cpu, cuda) = (Cpu::new(), cuda());
    let mut numbers = Numbers::new(2);
    let (mut y, x) = (numbers.take(40_001), numbers.take(40_001));
    let mut found = cuda.upload(&y).unwrap();
    cuda.add(&mut found, 0.3, &cuda.upload(&x).unwrap()).unwrap();
    cuda.scale(&mut found, 17.0).unwrap();
    cuda.soft_cap(&mut found, 30.0).unwrap();
    cpu.add(&mut y, 0.3, &x).unwrap();
    cpu.scale(&mut y, 17.0).unwrap();
    cpu.soft_cap(&mut y, 30.0).unwrap();
    assert_near(&fetch(&cuda, &found), &y, 1e-6);
    assert!(fetch(&cuda, &cuda.zeros(1000).unwrap()).iter().all(|x| x.to_bits() == 0));
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn the_first_number_that_is_not_finite() {
    let cuda = cuda();
    let mut x = vec![f32::MAX; 600_000];
    assert_eq!(cuda.first_not_finite(&cuda.upload(&x).unwrap()).unwrap(), None);
    assert_eq!(cuda.first_not_finite(&cuda.upload(&[]).unwrap()).unwrap(), None);
    for at in [599_999, 300_000, 262_144, 257, 0] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[at] = bad;
            assert_eq!(cuda.first_not_finite(&cuda.upload(&x).unwrap()).unwrap(), Some(at));
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn what_is_not_finite_stays_in_its_query() {
    let cuda = cuda();
    let shape = Attention { heads: 1, kv_heads: 1, key: 8, value: 8, scale: 1.0, soft_cap: None, window: None };
    let mut numbers = Numbers::new(6);
    let (mut q, k, v) = (numbers.take(320), numbers.take(320), numbers.take(320));
    for bad in [f32::NAN, f32::INFINITY] {
        q[17 * 8] = bad;
        let [q, k, v] = [&q, &k, &v].map(|numbers| cuda.upload(numbers).unwrap());
        let found = fetch(&cuda, &cuda.attention(&q, &k, &v, &[40], &shape, None).unwrap());
        assert!(found[17 * 8..18 * 8].iter().all(|x| x.is_nan()));
        assert!(found[..17 * 8].iter().chain(&found[18 * 8..]).all(|x| x.is_finite()));
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run with cargo test -p qhost-compute -- --ignored"]
fn operands_that_do_not_fit_are_refused() {
    let cuda = cuda();
    let (mut x, table) = (cuda.zeros(12).unwrap(), cuda.zeros(4).unwrap());
    assert!(cuda.add(&mut x, 1.0, &table).is_err());
    assert!(cuda.gather(&x, 4, &[3]).is_err());
    assert!(cuda.columns(&x, 4, Columns::range(2, 3)).is_err());
    assert!(cuda.moments(&x, 5, &mut [0.0; 5], &mut [0.0; 5]).is_err());
    assert!(cuda.download(&x, &mut [0.0; 11]).is_err());
}
