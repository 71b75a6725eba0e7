//! Rounding against the definitions: losses computed in full, GPTQ as its paper writes it, and exhaustive search.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    clippy::needless_range_loop,
    reason = "small numbers, and matrices as formulas have them"
)]

use qhost_rounding::{
    Conditioning, Curvature, DampedBy, Effort, Grid, Grouping, Groups, Order, Rounded, TILE, Tile, energy_of,
    round_groups, round_rows,
};

mod common;

use common::{Random, cholesky, gram, loss, weights};

fn curvature(gram: &[f64], grouping: Grouping, order: Order, damping: f64) -> Curvature {
    let how = Conditioning { damping, damped_by: DampedBy::Mean, order, grouping };
    Curvature::of::<()>(gram, &how, None, |matrix| Ok(cholesky(matrix))).unwrap()
}

fn dequantized(tile: &Tile, curvature: &Curvature) -> Vec<f32> {
    let grouping = curvature.grouping();
    let rounded = Rounded { codes: tile.codes.clone(), scales: tile.scales.clone(), zeros: tile.zeros.clone() };
    let mut out = vec![0.0; tile.codes.len()];
    let listed = curvature.listed_groups();
    let groups = listed.as_deref().map_or(Groups::Neighbours(grouping.size()), Groups::Listed);
    rounded.dequantize(grouping.width(), groups, &mut out);
    out
}

const PLAIN: Effort = Effort { candidates: 24, passes: 0 };
const MORE: Effort = Effort { candidates: 24, passes: 4 };

#[test]
fn the_loss_that_is_told_is_that_of_the_codes() {
    let mut random = Random(1);
    let (width, rows) = (96, 5);
    let gram = gram(&mut random, width, 300);
    let weights = weights(&mut random, rows, width);
    for (bits, symmetric) in [(2, true), (3, false), (4, true), (4, false), (8, true)] {
        for order in [Order::Natural, Order::GroupAware, Order::Activation] {
            for size in [16, 48, 0] {
                let curvature = curvature(&gram, Grouping::new(width, size).unwrap(), order, 0.01);
                let grid = Grid::new(bits, symmetric).unwrap();
                for effort in [PLAIN, MORE] {
                    let tile = round_rows(&curvature, grid, effort, &weights);
                    let expected = loss(&gram, 0.01, &weights, &dequantized(&tile, &curvature));
                    let case = format!("{bits} {symmetric} {order:?} {size} {effort:?}: {} {expected}", tile.loss);
                    assert!((tile.loss - expected).abs() < 2e-3 * expected, "{case}");
                    let errors: Vec<_> = weights
                        .iter()
                        .zip(dequantized(&tile, &curvature))
                        .map(|(original, made)| original - made)
                        .collect();
                    let of_errors = energy_of(&curvature, &errors);
                    assert!((of_errors - expected).abs() < 1e-4 * expected, "{of_errors}, {case}");
                    let energy = loss(&gram, 0.01, &weights, &vec![0.0; weights.len()]);
                    assert!((tile.energy - energy).abs() < 1e-4 * energy, "{case}");
                    let (least, most) = if symmetric { (grid.middle(), grid.middle()) } else { (1, grid.largest()) };
                    assert!(tile.zeros.iter().all(|zero| (least..=most).contains(zero)), "{case}");
                    assert!(tile.codes.iter().all(|code| *code <= grid.largest()), "{case}");
                }
            }
        }
    }
}

/// Powers of two, so that the two are the same to the bit.
#[test]
fn inputs_with_factors_are_conditioned_as_such_inputs_are() {
    let mut random = Random(5);
    let width = 64;
    let gram = gram(&mut random, width, 200);
    let factors: Vec<f32> = (0..width).map(|k| 2_f32.powi(k as i32 % 5 - 2)).collect();
    let scaled: Vec<f64> = gram
        .iter()
        .enumerate()
        .map(|(place, number)| number * f64::from(factors[place / width] * factors[place % width]))
        .collect();
    let how = Conditioning {
        damping: 0.01,
        damped_by: DampedBy::Mean,
        order: Order::GroupAware,
        grouping: Grouping::new(width, 32).unwrap(),
    };
    let by_factors = Curvature::of_scaled::<()>(&gram, &factors, &how, None, |matrix| Ok(cholesky(matrix))).unwrap();
    let expected = curvature(&scaled, how.grouping, how.order, how.damping);
    let weights = weights(&mut random, TILE, width);
    let rounded = |curvature: &Curvature| round_rows(curvature, Grid::new(4, false).unwrap(), MORE, &weights);
    assert_eq!(rounded(&by_factors), rounded(&expected));
    assert_ne!(rounded(&by_factors), rounded(&curvature(&gram, how.grouping, how.order, how.damping)));
}

/// Scales that look random, between a half and two.
fn scales(random: &mut Random, width: usize) -> Vec<f32> {
    (0..width).map(|_| (random.uniform() * 2.0).exp2() as f32).collect()
}

/// Damped by each input's own energy, and in an order by what inputs contribute, what is known of an input from
/// those after it does not depend on the inputs' sizes.
#[test]
fn damping_by_each_and_an_order_by_contributions_do_not_see_how_inputs_are_scaled() {
    let mut random = Random(22);
    let (width, size) = (160, 32);
    let gram = gram(&mut random, width, 500);
    let weights = weights(&mut random, TILE, width);
    let scales: Vec<_> = scales(&mut random, width).iter().map(|scale| scale.log2().round().exp2()).collect();
    let sizes = |weights: &[f32]| -> Vec<f64> {
        let squares =
            |column| weights.iter().skip(column).step_by(width).map(|weight| f64::from(*weight).powi(2)).sum();
        (0..width).map(squares).collect()
    };
    let how = |damped_by| Conditioning {
        damping: 0.01,
        damped_by,
        order: Order::GroupAware,
        grouping: Grouping::new(width, size).unwrap(),
    };
    let scaled: Vec<_> = weights.iter().zip(scales.iter().cycle()).map(|(weight, scale)| weight * scale).collect();
    let inverse: Vec<_> = scales.iter().map(|scale| scale.recip()).collect();
    let pair = |damped_by| {
        let how = how(damped_by);
        let plain = Curvature::of::<()>(&gram, &how, Some(&sizes(&weights)), |matrix| Ok(cholesky(matrix))).unwrap();
        let of_scaled =
            Curvature::of_scaled::<()>(&gram, &inverse, &how, Some(&sizes(&scaled)), |matrix| Ok(cholesky(matrix)));
        (plain.conditional_variances(), of_scaled.unwrap().conditional_variances())
    };
    let ratios = |(plain, of_scaled): (Vec<f64>, Vec<f64>)| -> Vec<f64> {
        let ratio = |((plain, of_scaled), scale): ((&f64, &f64), &f32)| of_scaled * f64::from(scale * scale) / plain;
        plain.iter().zip(&of_scaled).zip(&scales).map(ratio).collect()
    };
    let each = ratios(pair(DampedBy::Each));
    assert!(each.iter().all(|ratio| (ratio - 1.0).abs() < 1e-5), "{each:?}");
    let mean = ratios(pair(DampedBy::Mean));
    assert!(mean.iter().any(|ratio| (ratio - 1.0).abs() > 1e-2), "{mean:?}");
}

/// GPTQ as its paper writes it (algorithm 1, without blocks): the inverse's upper factor, and weights updated in place.
fn gptq(gram: &[f64], damping: f64, row: &[f32], scales: &[f32], size: usize, grid: Grid) -> Vec<u8> {
    let width = row.len();
    let mean = (0..width).map(|k| gram[k * width + k]).sum::<f64>() / width as f64;
    let mut damped = gram.to_vec();
    for k in 0..width {
        damped[k * width + k] += damping * mean;
    }
    // The inverse by solving for the columns of the unit matrix.
    let l = cholesky(damped).unwrap();
    let mut inverse = vec![0.0; width * width];
    for column in 0..width {
        let mut x = vec![0.0; width];
        x[column] = 1.0;
        for i in 0..width {
            x[i] = (x[i] - (0..i).map(|k| l[i * width + k] * x[k]).sum::<f64>()) / l[i * width + i];
        }
        for i in (0..width).rev() {
            x[i] = (x[i] - (i + 1..width).map(|k| l[k * width + i] * x[k]).sum::<f64>()) / l[i * width + i];
        }
        for (i, x) in x.into_iter().enumerate() {
            inverse[i * width + column] = x;
        }
    }
    let lower = cholesky(inverse).unwrap();
    let u = |row: usize, column: usize| lower[column * width + row];
    let mut w: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
    let middle = f64::from(grid.middle());
    let mut codes = Vec::new();
    for k in 0..width {
        let scale = f64::from(scales[k / size]);
        let code = (w[k] / scale).round_ties_even().clamp(-middle, middle - 1.0);
        codes.push((code + middle) as u8);
        let error = (w[k] - scale * code) / u(k, k);
        for j in k..width {
            w[j] -= error * u(k, j);
        }
    }
    codes
}

#[test]
fn without_passes_it_is_gptq() {
    let mut random = Random(2);
    let (width, size) = (160, 32);
    let gram = gram(&mut random, width, 500);
    let weights = weights(&mut random, TILE, width);
    let grid = Grid::new(4, true).unwrap();
    let curvature = curvature(&gram, Grouping::new(width, size).unwrap(), Order::Natural, 0.05);
    let tile = round_rows(&curvature, grid, PLAIN, &weights);
    let mut different = 0;
    for (row, weights) in weights.chunks(width).enumerate() {
        let groups = width / size;
        let scales: Vec<f32> = tile.scales[row * groups..][..groups].iter().map(|scale| scale.to_f32()).collect();
        let expected = gptq(&gram, 0.05, weights, &scales, size, grid);
        different += expected.iter().zip(&tile.codes[row * width..]).filter(|(x, y)| x != y).count();
    }
    // A target at the border of two codes may fall to either in f32, and then changes what comes after it.
    assert!(different * 200 < weights.len(), "{different} of {}", weights.len());
}

#[test]
fn passes_lower_the_loss_and_end_where_no_step_helps() {
    let mut random = Random(3);
    let (width, rows) = (64, 7);
    let gram = gram(&mut random, width, 200);
    let weights = weights(&mut random, rows, width);
    let grid = Grid::new(3, true).unwrap();
    let curvature = curvature(&gram, Grouping::new(width, 32).unwrap(), Order::GroupAware, 0.01);
    let of = |passes| round_rows(&curvature, grid, Effort { candidates: 24, passes }, &weights);
    let losses: Vec<f64> = [0, 1, 2, 100].map(|passes| of(passes).loss).to_vec();
    assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * 1.000_001), "{losses:?}");
    assert!(losses[1] < losses[0], "{losses:?}");
    let last = of(100);
    let least = loss(&gram, 0.01, &weights, &dequantized(&last, &curvature));
    for at in 0..last.codes.len() {
        for step in [-1_i16, 1] {
            let mut other = last.clone();
            let code = i16::from(other.codes[at]) + step;
            if (0..8).contains(&code) {
                other.codes[at] = code as u8;
                let changed = loss(&gram, 0.01, &weights, &dequantized(&other, &curvature));
                assert!(changed > least * (1.0 - 1e-4), "{at} {step}: {changed} < {least}");
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_each_other() {
    let mut random = Random(4);
    let width = 48;
    let gram = gram(&mut random, width, 100);
    let weights = weights(&mut random, TILE, width);
    let grid = Grid::new(4, false).unwrap();
    let curvature = curvature(&gram, Grouping::new(width, 16).unwrap(), Order::GroupAware, 0.01);
    let all = round_rows(&curvature, grid, MORE, &weights);
    for row in [0, 13, TILE - 1] {
        let alone = round_rows(&curvature, grid, MORE, &weights[row * width..][..width]);
        assert_eq!(alone.codes, all.codes[row * width..][..width]);
        assert_eq!(alone.scales, all.scales[row * 3..][..3]);
    }
}

#[test]
fn what_the_inputs_cannot_tell_does_not_stop_it() {
    let mut random = Random(5);
    let width = 32;
    let grid = Grid::new(4, true).unwrap();
    let grouping = Grouping::new(width, 16).unwrap();
    let weights = weights(&mut random, 3, width);
    let worst = weights.iter().fold(0.0_f32, |worst, weight| worst.max(weight.abs())) / 7.0;
    let close = |gram: &[f64], damping: f64| {
        let curvature = curvature(gram, grouping, Order::GroupAware, damping);
        let made = dequantized(&round_rows(&curvature, grid, MORE, &weights), &curvature);
        let far = weights.iter().zip(&made).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        (curvature, far)
    };
    // No input at all, one that is always zero, all the same, one token, numbers that are not finite.
    let (none, far) = close(&vec![0.0; width * width], 0.01);
    assert!(none.is_plain() && none.dead() == width && far <= worst, "{far} {worst}");
    let mut dead = gram(&mut random, width, 100);
    for k in 0..width {
        (dead[5 * width + k], dead[k * width + 5]) = (0.0, 0.0);
    }
    let (dead, _) = close(&dead, 0.01);
    assert_eq!((dead.dead(), dead.is_plain()), (1, false));
    let (same, _) = close(&vec![1.0; width * width], 0.01);
    assert!(!same.is_plain());
    let (singular, _) = close(&vec![1.0; width * width], 0.0);
    assert!(singular.is_plain(), "no damping, no factor");
    let (broken, far) = close(&vec![f64::NAN; width * width], 0.01);
    assert!(broken.is_plain() && far <= worst, "{far} {worst}");
    // Zeros stay zeros.
    let curvature = curvature(&gram(&mut random, width, 100), grouping, Order::GroupAware, 0.01);
    let zeros = round_rows(&curvature, grid, MORE, &vec![0.0; width]);
    assert!(dequantized(&zeros, &curvature).iter().all(|weight| *weight == 0.0));
    assert!(zeros.scales.iter().all(|scale| scale.to_f32() != 0.0));
}

#[test]
fn the_error_of_a_tiny_row_is_nearly_the_least_there_is() {
    let mut random = Random(6);
    let width = 6;
    let gram = gram(&mut random, width, 40);
    let grid = Grid::new(2, true).unwrap();
    let curvature = curvature(&gram, Grouping::new(width, 0).unwrap(), Order::GroupAware, 0.01);
    let mut ratio = 0.0;
    for _ in 0..10 {
        let row = weights(&mut random, 1, width);
        let tile = round_rows(&curvature, grid, MORE, &row);
        // All 4^6 codes, each with the scale that suits it best.
        let mut least = f64::INFINITY;
        for all in 0..4_u32.pow(6) {
            let codes: Vec<f64> = (0..6).map(|k| f64::from((all >> (2 * k)) & 3) - 2.0).collect();
            let h = |x: &[f64], y: &[f64]| {
                let mean = (0..width).map(|k| gram[k * width + k]).sum::<f64>() / width as f64;
                let pairs = (0..width).flat_map(|i| (0..width).map(move |j| (i, j)));
                let number = |(i, j)| x[i] * y[j] * (gram[i * width + j] + if i == j { 0.01 * mean } else { 0.0 });
                pairs.map(number).sum::<f64>()
            };
            let w: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
            let own = h(&codes, &codes);
            let gain = if own > 0.0 { h(&w, &codes).powi(2) / own } else { 0.0 };
            least = least.min(h(&w, &w) - gain);
        }
        assert!(tile.loss > least * 0.99, "{} {least}", tile.loss);
        ratio += tile.loss / least / 10.0;
    }
    assert!(ratio < 1.5, "{ratio}");
}

/// Each group for itself is what rounding under inputs is of which nothing is known, however the groups lie together; and
/// the loss that is told is that of the codes.
#[test]
fn groups_without_inputs_are_rounded_each_for_itself() {
    let mut random = Random(11);
    let (width, rows) = (96, 37);
    let weights = weights(&mut random, rows, width);
    let nothing = vec![0.0; width * width];
    for (bits, symmetric) in [(2, true), (3, false), (4, true), (4, false), (7, false), (8, true)] {
        for size in [16, 48, 0] {
            let grid = Grid::new(bits, symmetric).unwrap();
            let grouping = Grouping::new(width, size).unwrap();
            let curvature = curvature(&nothing, grouping, Order::Natural, 0.01);
            let tile = round_groups(grid, PLAIN.candidates, grouping.size(), &weights);
            let mut of_rows = Tile::default();
            for rows in weights.chunks(TILE * width) {
                let some = round_rows(&curvature, grid, PLAIN, rows);
                of_rows.codes.extend(some.codes);
                of_rows.scales.extend(some.scales);
                of_rows.zeros.extend(some.zeros);
                of_rows.loss += some.loss;
            }
            let case = format!("{bits} {symmetric} {size}");
            assert!(
                (&tile.codes, &tile.scales, &tile.zeros) == (&of_rows.codes, &of_rows.scales, &of_rows.zeros),
                "{case}"
            );
            assert!((tile.loss - of_rows.loss).abs() < 1e-4 * of_rows.loss, "{case}: {} {}", tile.loss, of_rows.loss);
            let errors =
                weights.iter().zip(dequantized(&tile, &curvature)).map(|(one, other)| f64::from(one - other).powi(2));
            let errors: f64 = errors.sum();
            assert!((tile.loss - errors).abs() < 1e-5 * errors, "{case}: {} {errors}", tile.loss);
        }
    }
}
