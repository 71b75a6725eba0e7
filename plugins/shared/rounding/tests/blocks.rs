//! Rounding to blocks against the definitions: losses computed in full, and what simpler ways lose.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Random, cholesky, gram, loss, weights};
use qhost_rounding::{
    Blocks, Conditioning, Curvature, DampedBy, Effort, Minima, Scheme, TILE, Values, arrangement, round_blocks,
};

const BOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

const fn whole(least: i16, greatest: i16) -> Values {
    Values::Whole { least, greatest }
}

const fn scheme(size: usize, count: usize, values: Values, scales: [i8; 2], signed: bool, minima: Minima) -> Scheme {
    Scheme { size, count, values, scales, signed, minima }
}

/// With one sub-block and with several; with and without minima; with whole values and others.
const SCHEMES: [Scheme; 9] = [
    scheme(32, 1, whole(-8, 7), [1, 1], true, Minima::None),
    scheme(32, 1, whole(0, 15), [1, 1], false, Minima::Own),
    scheme(32, 1, whole(-127, 127), [1, 1], false, Minima::None),
    scheme(32, 1, Values::Book(&BOOK), [1, 1], true, Minima::None),
    scheme(16, 16, whole(0, 3), [0, 15], false, Minima::Multiples(15)),
    scheme(16, 16, whole(-4, 3), [-32, 31], true, Minima::None),
    scheme(32, 8, whole(0, 15), [0, 63], false, Minima::Multiples(63)),
    scheme(16, 16, whole(-32, 31), [-128, 127], true, Minima::None),
    scheme(32, 8, Values::Book(&BOOK), [-32, 31], true, Minima::None),
];

const fn effort(passes: usize) -> Effort {
    Effort { candidates: 24, passes }
}

fn curvature(gram: &[f64], width: usize) -> Curvature {
    let (grouping, order) = arrangement(width).unwrap();
    let how = Conditioning { damping: 0.01, damped_by: DampedBy::Mean, order, grouping };
    Curvature::of::<()>(gram, &how, None, |matrix| Ok(cholesky(matrix))).unwrap()
}

/// The weights that blocks stand for.
fn dequantized(blocks: &Blocks, scheme: &Scheme) -> Vec<f32> {
    let code = |(at, code): (usize, &u8)| {
        let (sub_block, block) = (at / scheme.size, at / scheme.columns());
        let value = match scheme.values {
            Values::Whole { least, .. } => f32::from(least + i16::from(*code)),
            Values::Book(values) => f32::from(values[usize::from(*code)]),
        };
        let (scale, minimum) = (f32::from(blocks.scales[sub_block]), f32::from(blocks.minima[sub_block]));
        blocks.d[block].to_f32() * scale * value - blocks.m[block].to_f32() * minimum
    };
    blocks.codes.iter().enumerate().map(code).collect()
}

fn assert_in_range(blocks: &Blocks, scheme: &Scheme) {
    let most = match scheme.values {
        Values::Whole { least, greatest } => u8::try_from(greatest - least).unwrap(),
        Values::Book(_) => 15,
    };
    assert!(blocks.codes.iter().all(|code| *code <= most));
    assert!(blocks.scales.iter().all(|scale| (scheme.scales[0]..=scheme.scales[1]).contains(scale)));
    assert!(blocks.d.iter().all(|d| d.is_finite() && (scheme.signed || d.to_f32() >= 0.0)));
    let (most, own) = match scheme.minima {
        Minima::None => (0, false),
        Minima::Own => (1, true),
        Minima::Multiples(most) => (most, false),
    };
    assert!(blocks.minima.iter().all(|minimum| *minimum <= most));
    assert!(blocks.m.iter().all(|m| m.is_finite() && (own || m.to_f32() >= 0.0)));
}

#[test]
fn the_loss_that_is_told_is_that_of_the_blocks_and_no_pass_raises_it() {
    let mut random = Random(3);
    for (width, rows, tokens) in [(256, 3, 700), (512, TILE, 900)] {
        let gram = gram(&mut random, width, tokens);
        let weights = weights(&mut random, rows, width);
        let curvature = curvature(&gram, width);
        for scheme in &SCHEMES {
            let mut before = f64::INFINITY;
            for passes in [0, 1, 4] {
                let blocks = round_blocks(&curvature, scheme, effort(passes), &weights);
                assert_in_range(&blocks, scheme);
                let found = loss(&gram, 0.01, &weights, &dequantized(&blocks, scheme));
                let told = blocks.loss;
                assert!((found - told).abs() < 2e-3 * found, "{scheme:?} {passes}: {told} is {found}");
                assert!(told <= before * (1.0 + 1e-6), "{scheme:?} {passes}: {told} after {before}");
                before = told;
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_each_other() {
    let mut random = Random(4);
    let gram = gram(&mut random, 256, 600);
    let weights = weights(&mut random, 5, 256);
    let curvature = curvature(&gram, 256);
    for scheme in &SCHEMES {
        let all = round_blocks(&curvature, scheme, effort(2), &weights);
        let codes: Vec<u8> =
            weights.chunks_exact(256).flat_map(|row| round_blocks(&curvature, scheme, effort(2), row).codes).collect();
        assert_eq!(all.codes, codes);
    }
}

/// Nothing is known of the inputs then, and the best is what is nearest to each weight.
#[test]
fn without_inputs_weights_are_rounded_for_themselves() {
    let mut random = Random(5);
    let weights = weights(&mut random, 4, 256);
    let curvature = curvature(&vec![0.0; 256 * 256], 256);
    assert!(curvature.is_plain());
    for scheme in &SCHEMES {
        let blocks = round_blocks(&curvature, scheme, effort(2), &weights);
        let made = dequantized(&blocks, scheme);
        let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let errors = squares(&mut made.iter().zip(&weights).map(|(made, weight)| made - weight));
        assert!(errors <= 0.12 * squares(&mut weights.iter().copied()), "{scheme:?}");
        assert!((errors - blocks.loss).abs() < 1e-3 * errors, "{scheme:?}: {errors} {}", blocks.loss);
    }
}

#[test]
fn weights_of_one_value_lose_next_to_nothing() {
    let mut random = Random(6);
    let gram = gram(&mut random, 256, 600);
    let curvature = curvature(&gram, 256);
    for scheme in &SCHEMES {
        for value in [0.0, 1.75, -0.5] {
            let blocks = round_blocks(&curvature, scheme, effort(2), &[value; 256]);
            assert!(blocks.loss <= 1e-4 * blocks.energy, "{scheme:?} {value}: {} of {}", blocks.loss, blocks.energy);
            if value == 0.0 {
                assert!(dequantized(&blocks, scheme).iter().all(|made| *made == 0.0));
            }
        }
    }
}
