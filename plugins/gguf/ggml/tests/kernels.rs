//! The kernels without llama.cpp at hand, on every instruction set that the machine has: the reference's bytes from a
//! file, and what must hold for every input.

#[path = "golden/inputs.rs"]
mod inputs;
#[path = "golden/vectors.rs"]
mod vectors;

use inputs::{DISTRIBUTIONS, IMPORTANCES, Random, distributions};
use qhost_ggml::{BlockType, GgmlType};
use qhost_plugin_api::sdk::InstructionSet;

const HOSTILE: [f32; 8] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0];

/// Every block type on every instruction set.
fn kernels() -> impl Iterator<Item = (BlockType, InstructionSet)> {
    BlockType::ALL.into_iter().flat_map(|block_type| InstructionSet::available().map(move |set| (block_type, set)))
}

fn quantize(block_type: BlockType, x: &[f32], fill: u8) -> Vec<u8> {
    quantize_on(InstructionSet::best(), block_type, x, fill)
}

fn quantize_on(set: InstructionSet, block_type: BlockType, x: &[f32], fill: u8) -> Vec<u8> {
    let mut out = vec![fill; x.len() / block_type.block_elements() * block_type.block_bytes()];
    block_type.quantize_on(set, x, &mut out);
    out
}

fn dequantize(block_type: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / block_type.block_bytes() * block_type.block_elements()];
    block_type.dequantize(bytes, &mut out);
    out
}

#[test]
fn bytes_are_those_of_the_golden_file() {
    let golden = vectors::parse(include_str!("golden/kernels.txt"));
    assert_eq!(golden.len(), BlockType::ALL.len() * DISTRIBUTIONS.len());
    for (block_type, set) in kernels() {
        for (name, make) in DISTRIBUTIONS {
            let bytes = quantize_on(set, block_type, &vectors::weights(make), 0);
            let line = vectors::line(block_type.name(), name, &bytes, block_type.block_bytes());
            assert!(golden.contains(&&*line), "no longer the reference's bytes with {}: {line}", set.name());
        }
    }
}

#[test]
fn weights_are_those_of_the_golden_file() {
    let golden = vectors::parse(include_str!("golden/weights.txt"));
    let types: Vec<_> = GgmlType::all().filter(|known| known.holds_weights()).collect();
    assert_eq!(golden.len(), types.len());
    for known in types {
        let bytes = vectors::blocks(known.number, known.block_bytes);
        let blocks = bytes.len() as u64 / known.block_bytes;
        for set in InstructionSet::available() {
            let mut out = vec![f32::MAX; usize::try_from(blocks * known.block_elements).unwrap()];
            known.dequantize_on(set, &bytes, &mut out);
            let line = vectors::line(known.name, "random", &vectors::canonical(&out), 16);
            assert!(golden.contains(&&*line), "no longer the reference's weights with {}: {line}", set.name());
        }
    }
}

fn quantize_weighted(block_type: BlockType, x: &[f32], columns: &[f32], fill: u8) -> Vec<u8> {
    quantize_weighted_on(InstructionSet::best(), block_type, x, columns, fill)
}

fn quantize_weighted_on(set: InstructionSet, block_type: BlockType, x: &[f32], columns: &[f32], fill: u8) -> Vec<u8> {
    let mut out = vec![fill; x.len() / block_type.block_elements() * block_type.block_bytes()];
    block_type.quantize_weighted_on(set, x, columns, &mut out);
    out
}

/// The types whose bytes depend on importances.
fn weighted() -> impl Iterator<Item = BlockType> {
    BlockType::ALL.into_iter().filter(|block_type| block_type.uses_importance())
}

#[test]
fn bytes_with_importances_are_those_of_the_golden_file() {
    let golden = vectors::parse(include_str!("golden/weighted.txt"));
    assert_eq!(golden.len(), weighted().count() * DISTRIBUTIONS.len());
    let columns = vectors::columns();
    for (block_type, set) in kernels().filter(|(block_type, _)| block_type.uses_importance()) {
        for (name, make) in DISTRIBUTIONS {
            let bytes = quantize_weighted_on(set, block_type, &vectors::weights(make), &columns, 0);
            let line = vectors::line(block_type.name(), name, &bytes, block_type.block_bytes());
            assert!(golden.contains(&&*line), "no longer the reference's bytes with {}: {line}", set.name());
        }
    }
}

#[test]
fn with_importances_neither_old_bytes_nor_other_rows_matter() {
    let x = Random::new(3).each(4096, Random::gauss);
    for (importance, make) in IMPORTANCES {
        let columns = make(&mut Random::new(4), 1024);
        for (block_type, set) in kernels() {
            let what = format!("{} with {}, {importance}", block_type.name(), set.name());
            let bytes = quantize_weighted_on(set, block_type, &x, &columns, 0);
            assert_eq!(bytes, quantize_weighted_on(set, block_type, &x, &columns, 0xff), "{what}");
            let alone = x.chunks(1024).flat_map(|x| quantize_weighted_on(set, block_type, x, &columns, 0));
            assert!(alone.eq(bytes), "{what}");
        }
    }
}

/// What importances are for: where all of them but one column's are small, that column's error is.
#[test]
fn important_columns_have_less_error() {
    let x = Random::new(12).each(64 * 512, |random| 0.02 * random.gauss());
    let (important, mut columns) = (37, vec![0.01; 512]);
    columns[important] = 10.0;
    let error = |block_type, bytes: &[u8]| {
        let back = dequantize(block_type, bytes);
        let errors = x.chunks(512).zip(back.chunks(512)).map(|(x, back)| f64::from(x[important] - back[important]));
        errors.map(|error| error * error).sum::<f64>()
    };
    for block_type in weighted() {
        let plain = error(block_type, &quantize(block_type, &x, 0));
        let weighted = error(block_type, &quantize_weighted(block_type, &x, &columns, 0));
        assert!(weighted < 0.8 * plain, "{}: {weighted:e} of {plain:e}", block_type.name());
    }
    for block_type in BlockType::ALL.into_iter().filter(|block_type| !block_type.uses_importance()) {
        assert_eq!(quantize(block_type, &x, 0), quantize_weighted(block_type, &x, &columns, 0));
    }
}

#[test]
fn what_was_in_the_output_before_does_not_matter() {
    for (block_type, set) in kernels() {
        for (name, make) in distributions() {
            let x = make(&mut Random::new(3), 1024);
            let (zeros, ones) = (quantize_on(set, block_type, &x, 0), quantize_on(set, block_type, &x, 0xff));
            assert_eq!(zeros, ones, "{} {name} with {}", block_type.name(), set.name());
        }
    }
}

#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    for (block_type, set) in kernels() {
        for (name, make) in distributions() {
            let x = make(&mut Random::new(5), 17 * 256);
            let alone = x.chunks(block_type.block_elements()).flat_map(|x| quantize_on(set, block_type, x, 0));
            assert!(alone.eq(quantize_on(set, block_type, &x, 0)), "{} {name} with {}", block_type.name(), set.name());
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for block_type in BlockType::ALL {
        for zero in [0.0, -0.0] {
            let bytes = quantize(block_type, &[zero; 512], 0xff);
            assert_eq!(block_type.first_invalid_block(&bytes), None);
            assert!(dequantize(block_type, &bytes).iter().all(|&value| value == 0.0), "{}", block_type.name());
        }
    }
}

#[test]
fn more_bits_mean_less_error_and_each_type_keeps_its_bound() {
    let x = Random::new(11).each(64 * 256, |random| 0.02 * random.gauss());
    // Relative root mean square errors, a little above what is measured.
    let bounds = [
        (BlockType::F32, 0.0),
        (BlockType::F16, 2.2e-4),
        (BlockType::BF16, 1.8e-3),
        (BlockType::Q8_0, 6.0e-3),
        (BlockType::Q6K, 1.9e-2),
        (BlockType::Q5K, 3.8e-2),
        (BlockType::Q5_1, 4.2e-2),
        (BlockType::Q5_0, 4.5e-2),
        (BlockType::Q4K, 7.5e-2),
        (BlockType::IQ4NL, 7.8e-2),
        (BlockType::IQ4XS, 7.9e-2),
        (BlockType::Q4_1, 8.7e-2),
        (BlockType::Q4_0, 9.5e-2),
        (BlockType::Q3K, 0.16),
        (BlockType::Q2K, 0.32),
    ];
    let mut last = -1.0;
    for (block_type, bound) in bounds {
        let back = dequantize(block_type, &quantize(block_type, &x, 0));
        let power = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let error = power(&mut x.iter().zip(&back).map(|(x, back)| f64::from(x - back)));
        let error = (error / power(&mut x.iter().map(|&x| f64::from(x)))).sqrt();
        assert!(error <= bound && error > last, "{}: {error:e}, bound {bound:e}", block_type.name());
        last = error;
    }
}

#[test]
fn hostile_weights_give_some_bytes_and_no_panic() {
    for (block_type, set) in kernels() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut x = random.each(512, Random::gauss);
            for _ in 0..=random.below(40) {
                let at = random.below(512);
                x[at] = HOSTILE[random.below(HOSTILE.len())];
            }
            let bytes = quantize_on(set, block_type, &x, 0);
            dequantize(block_type, &bytes);
            let columns = Random::new(seed).each(256, |random| f32::from_bits(random.bits(32)));
            dequantize(block_type, &quantize_weighted_on(set, block_type, &x, &columns, 0));
        }
        for value in HOSTILE {
            dequantize(block_type, &quantize_on(set, block_type, &[value; 512], 0));
        }
        let any = Random::new(1).each(4096, |random| f32::from_bits(random.bits(32)));
        dequantize(block_type, &quantize_on(set, block_type, &any, 0));
    }
}

#[test]
fn any_bytes_can_be_read() {
    let mut random = Random::new(17);
    for block_type in BlockType::ALL {
        let bytes: Vec<u8> = (0..block_type.block_bytes() * 64).map(|_| random.bits(8).to_le_bytes()[0]).collect();
        dequantize(block_type, &bytes);
        let _ = block_type.first_invalid_block(&bytes);
    }
}

#[test]
fn scales_beyond_f16_are_found() {
    for block_type in BlockType::ALL {
        if matches!(block_type, BlockType::F32 | BlockType::BF16) {
            continue;
        }
        let mut x = [0.5; 1024];
        x[512 + 3] = 1e10;
        let bytes = quantize(block_type, &x, 0);
        let expected = (512 + 3) / block_type.block_elements();
        assert_eq!(block_type.first_invalid_block(&bytes), Some(expected), "{}", block_type.name());
    }
}

#[test]
fn the_first_invalid_block_is_found_wherever_it_is() {
    for block_type in BlockType::ALL {
        let good = quantize(block_type, &Random::new(2).each(2048, Random::gauss), 0);
        assert_eq!(block_type.first_invalid_block(&good), None);
        let (size, blocks) = (block_type.block_bytes(), good.len() / block_type.block_bytes());
        for at in [0, blocks / 2, blocks - 1] {
            let mut bad = good.clone();
            bad[at * size..].fill(0xff);
            assert_eq!(block_type.first_invalid_block(&bad), Some(at), "{}", block_type.name());
        }
        if size > 1 {
            assert_eq!(block_type.first_invalid_block(&good[..good.len() - 1]), Some(blocks - 1));
        }
        assert_eq!(block_type.first_invalid_block(&[]), None);
    }
}

#[test]
#[should_panic(expected = "no whole")]
fn weights_that_are_no_whole_block_are_refused() {
    BlockType::Q4K.quantize(&[0.0; 32], &mut [0; 18]);
}

#[test]
#[should_panic(expected = "no whole rows")]
fn weights_that_are_no_whole_row_are_refused() {
    BlockType::Q4_0.quantize_weighted(&[0.0; 96], &[1.0; 64], &mut [0; 54]);
}

#[test]
#[should_panic(expected = "wrong number of bytes")]
fn an_output_of_another_size_is_refused() {
    BlockType::Q4_0.quantize(&[0.0; 32], &mut [0; 36]);
}

#[test]
#[should_panic(expected = "wrong number of weights")]
fn an_output_of_another_size_is_refused_when_reading() {
    BlockType::Q4_0.dequantize(&[0; 18], &mut [0.0; 64]);
}

/// Within two parts of a hundred of what is measured.
#[test]
fn the_expected_error_is_that_of_normal_weights() {
    let (_, make) = DISTRIBUTIONS.into_iter().find(|(name, _)| *name == "gauss").unwrap();
    let x = vectors::weights(make);
    let square = |x: f32| f64::from(x) * f64::from(x);
    for block_type in BlockType::ALL {
        let back = dequantize(block_type, &quantize(block_type, &x, 0));
        let errors: f64 = x.iter().zip(&back).map(|(x, y)| square(x - y)).sum();
        let measured = (errors / x.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
        let expected = block_type.expected_error();
        assert!((measured - expected).abs() <= 0.02 * expected, "{}: {measured:.3e}", block_type.name());
    }
}
