//! Which scales the inputs of some linears are to have.
//!
//! AWQ (Lin et al., 2023, section 3.2) scales the inputs that matter up before weights are rounded, so that their weights
//! are rounded less coarsely, and looks for the best of a family of scales by what the linears give then. Here errors
//! are compensated when weights are rounded, so that what an error costs is not the input, but what of it the inputs
//! that are rounded later do not tell: its conditional variance `D`. The steps of a group are its range by the number of
//! steps, so that compensated rounding is expected to lose
//!
//! `J(s) = Σ_groups (Σ_rows range(W s)²) · (Σ_k D_k / s_k²)`, but for a constant factor.
//!
//! Where the range is a norm of high power, `J` is smooth, and at its minimum every input has the same share in its
//! group's ranges as in its group's costs: an input whose weights make steps coarse is scaled down, one whose errors
//! cost is scaled up, until they balance. Shares are brought together step by step, which takes neither a replay of the
//! model nor a factorisation. Scales are free, and do not depend on how inputs and weights were scaled before.
//!
//! It knows weights and variances; where scales are folded into it does not know.

use std::ops::Range;

use crate::sample::Sample;

/// Times that shares are brought closer.
const STEPS: u32 = 20;

/// The part of the way that is gone at a time, in powers of two of the scale for each of the shares' ratio.
const PACE: f64 = 0.1;

/// The most that a ratio of shares counts, in powers of two.
const MOST: f64 = 4.0;

/// The most that a scale may be, in powers of two, and the least: what takes the inverse has to stay in the range of
/// 16-bit floats.
const LARGEST: f64 = 6.0;

/// What has to be left of the expected loss, at most, for scales to be taken: less is gained in the linear than may be lost
/// beyond it.
const WORTH: f64 = 0.96;

/// Parts that a sample is cut into, for threads.
const PARTS: usize = 16;

/// What is known of the inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The conditional variance of each.
    pub(crate) variances: &'a [f64],
    /// Inputs with the same number need the same scale.
    pub(crate) ties: &'a [usize],
    /// Inputs that share a step.
    pub(crate) group: usize,
    /// Whether codes are symmetric.
    pub(crate) symmetric: bool,
    /// Whether scales have to be powers of two.
    pub(crate) whole_powers: bool,
}

/// Scales, and the part of the loss to be expected that they leave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// A scale for every input.
    pub(crate) scales: Vec<f32>,
    /// The expected loss with them over that without any.
    pub(crate) ratio: f64,
}

impl Choice {
    /// No scales.
    fn none(inputs: usize) -> Self {
        Self { scales: vec![1.0; inputs], ratio: 1.0 }
    }
}

/// Something that is summed up over parts of the sample, each part given by its rows.
type OfRows<'a> = &'a (dyn Fn(Range<usize>) -> Vec<f64> + Sync);

/// Chooses scales with little loss to be expected.
///
/// `each` does something for every part of the sample, perhaps with several threads, and gives the results in order.
///
/// # Errors
/// Fails as `each` does.
pub(crate) fn balance<E>(
    sample: &Sample,
    inputs: Inputs<'_>,
    each: impl Fn(usize, &(dyn Fn(usize) -> Vec<f64> + Sync)) -> Result<Vec<Vec<f64>>, E>,
) -> Result<Choice, E> {
    let count = inputs.variances.len();
    let rows = sample.shares.len();
    let sum = |of_rows: OfRows<'_>| {
        // The parts depend on the sample alone, and with them the order of sums.
        let parts = PARTS.min(rows).max(1);
        let results = each(parts, &|part| of_rows(part * rows / parts..(part + 1) * rows / parts))?;
        let add = |mut all: Vec<f64>, part: Vec<f64>| {
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
            all
        };
        Ok::<_, E>(results.into_iter().reduce(add).unwrap_or_default())
    };
    let loss =
        |scales: &[f32]| Ok::<_, E>(expected_loss(inputs, scales, &sum(&|rows| ranges(sample, inputs, scales, rows))?));
    let without = loss(&vec![1.0; count])?;
    if !(without.is_finite() && without > 0.0) {
        return Ok(Choice::none(count));
    }
    let mut powers = vec![0.0; count];
    for _ in 0..STEPS {
        let scales = scales(&powers);
        let parts = sum(&|rows| parts_in_ranges(sample, inputs, &scales, rows))?;
        approach(inputs, &scales, &parts, &mut powers);
    }
    let mut powers = centred(&powers, inputs);
    if inputs.whole_powers {
        for power in &mut powers {
            *power = power.round_ties_even();
        }
    }
    let scales = scales(&powers);
    let ratio = loss(&scales)? / without;
    Ok(if ratio < WORTH { Choice { scales, ratio } } else { Choice::none(count) })
}

#[expect(clippy::cast_possible_truncation, reason = "weights are multiplied in f32")]
fn scales(powers: &[f64]) -> Vec<f32> {
    powers.iter().map(|power| power.clamp(-LARGEST, LARGEST).exp2() as f32).collect()
}

/// Goes a part of the way to where inputs have the same share in ranges, of which the parts are given, and in costs.
fn approach(inputs: Inputs<'_>, scales: &[f32], parts: &[f64], powers: &mut [f64]) {
    let mut sums = vec![(0.0, 0.0); inputs.ties.iter().max().map_or(0, |last| last + 1)];
    let size = inputs.group.max(1);
    let groups =
        parts.chunks(size).zip(inputs.variances.chunks(size)).zip(scales.chunks(size)).zip(inputs.ties.chunks(size));
    for (((parts, variances), scales), ties) in groups {
        // The root of the costs, with the square of its sum in their place: it weighs inputs more evenly, and finds lower
        // losses than the costs themselves.
        let cost = |(variance, scale): (&f64, &f32)| variance.sqrt() / f64::from(*scale);
        let (all_parts, all_costs) = (parts.iter().sum::<f64>(), variances.iter().zip(scales).map(cost).sum::<f64>());
        if !(all_parts > 0.0 && all_costs > 0.0) {
            continue;
        }
        let weight = all_parts * all_costs * all_costs;
        for ((part, of_input), tie) in parts.iter().zip(variances.iter().zip(scales)).zip(ties) {
            let (range, costs) = &mut sums[*tie];
            *range += weight * part / all_parts;
            *costs += weight * cost(of_input) / all_costs;
        }
    }
    for (power, tie) in powers.iter_mut().zip(inputs.ties) {
        let (range, costs) = sums[*tie];
        let ratio = costs.max(f64::MIN_POSITIVE) / range.max(f64::MIN_POSITIVE);
        *power += PACE * ratio.log2().clamp(-MOST, MOST);
    }
}

/// Powers around 0: in each group, or over all where groups have inputs that need the same scale as others'.
fn centred(powers: &[f64], inputs: Inputs<'_>) -> Vec<f64> {
    let tied = inputs.ties.iter().max().is_some_and(|last| last + 1 < inputs.ties.len());
    let size = if tied { powers.len() } else { inputs.group }.max(1);
    let centred = |group: &[f64]| {
        #[expect(clippy::cast_precision_loss, reason = "a number of inputs")]
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        group.iter().map(|power| power - mean).collect::<Vec<_>>()
    };
    powers.chunks(size).flat_map(centred).collect()
}

/// What compensated rounding is expected to lose, but for a factor, with the sums of squares of every group's ranges.
fn expected_loss(inputs: Inputs<'_>, scales: &[f32], ranges: &[f64]) -> f64 {
    let size = inputs.group.max(1);
    let costs = inputs.variances.chunks(size).zip(scales.chunks(size)).map(|(variances, scales)| {
        variances.iter().zip(scales).map(|(variance, scale)| variance / f64::from(*scale).powi(2)).sum::<f64>()
    });
    ranges.iter().zip(costs).map(|(range, cost)| range * cost).sum()
}

/// The squares of the ranges of every group, summed up over rows.
fn ranges(sample: &Sample, inputs: Inputs<'_>, scales: &[f32], rows: Range<usize>) -> Vec<f64> {
    let size = inputs.group.max(1);
    let mut sums = vec![0.0; scales.chunks(size).len()];
    for (weights, share) in of_rows(sample, scales.len(), rows) {
        for ((sum, weights), scales) in sums.iter_mut().zip(weights.chunks(size)).zip(scales.chunks(size)) {
            let range = range(weights, scales, inputs.symmetric);
            *sum += f64::from(range * range * share);
        }
    }
    sums
}

/// The weights of rows, and their shares.
fn of_rows(sample: &Sample, columns: usize, rows: Range<usize>) -> impl Iterator<Item = (&[f32], f32)> {
    let weights = sample.weights.chunks_exact(columns.max(1)).skip(rows.start).take(rows.len());
    weights.zip(sample.shares[rows].iter().copied())
}

/// The range that a group's codes have to hold, with its scales.
fn range(weights: &[f32], scales: &[f32], symmetric: bool) -> f32 {
    let scaled = || weights.iter().zip(scales).map(|(weight, scale)| weight * scale);
    let (low, high) = scaled().fold((0.0_f32, 0.0_f32), |(low, high), weight| (low.min(weight), high.max(weight)));
    if symmetric { 2.0 * high.max(-low) } else { high - low }
}

/// What part every input has in the squares of its group's ranges, summed up over rows: ranges are norms of the power 12,
/// which the largest weights make.
fn parts_in_ranges(sample: &Sample, inputs: Inputs<'_>, scales: &[f32], rows: Range<usize>) -> Vec<f64> {
    let size = inputs.group.max(1);
    let mut parts = vec![0.0; scales.len()];
    let mut powers = vec![0.0_f32; size];
    for (weights, share) in of_rows(sample, scales.len(), rows) {
        let groups = weights.chunks(size).zip(scales.chunks(size)).zip(parts.chunks_mut(size));
        for ((weights, scales), parts) in groups {
            let powers = &mut powers[..weights.len()];
            let mut largest = 0.0_f32;
            for ((power, weight), scale) in powers.iter_mut().zip(weights).zip(scales) {
                *power = (weight * scale).abs();
                largest = largest.max(*power);
            }
            if largest <= 0.0 {
                continue;
            }
            let mut sum = 0.0_f32;
            for power in &mut *powers {
                let square = (*power / largest).powi(2);
                let fourth = square * square;
                *power = fourth * fourth * fourth;
                sum += *power;
            }
            let square = f64::from(largest).powi(2) * f64::from(sum).powf(1.0 / 6.0) * f64::from(share);
            for (part, power) in parts.iter_mut().zip(&*powers) {
                *part += square * f64::from(*power / sum);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Numbers about zero that look random.
    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            // Knuth's MMIX generator; its high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(u16::from_le_bytes([state.to_le_bytes()[6], state.to_le_bytes()[7]])) / 65536.0 - 0.5
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn sample(rows: usize, columns: usize) -> Sample {
        Sample { weights: noise(rows * columns, 3), shares: vec![1.0; rows] }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands for threads, which can be stopped")]
    fn all(count: usize, part: &(dyn Fn(usize) -> Vec<f64> + Sync)) -> Result<Vec<Vec<f64>>, Infallible> {
        Ok((0..count).map(part).collect())
    }

    fn loss(sample: &Sample, inputs: Inputs<'_>, scales: &[f32]) -> f64 {
        expected_loss(inputs, scales, &ranges(sample, inputs, scales, 0..sample.shares.len()))
    }

    #[test]
    fn an_input_that_matters_more_is_scaled_up_and_the_loss_falls() {
        let mut variances = vec![1.0; 64];
        variances[5] = 400.0;
        let ties: Vec<_> = (0..64).collect();
        for symmetric in [true, false] {
            let inputs = Inputs { variances: &variances, ties: &ties, group: 32, symmetric, whole_powers: false };
            let choice = balance(&sample(24, 64), inputs, all).unwrap();
            let rest = choice.scales[6];
            assert!(choice.ratio < 0.7, "{}", choice.ratio);
            assert!(choice.scales[5] > 1.3 * rest, "{} {rest}", choice.scales[5]);
            let ours = loss(&sample(24, 64), inputs, &choice.scales);
            let without = loss(&sample(24, 64), inputs, &[1.0; 64]);
            assert!((ours / without - choice.ratio).abs() < 1e-12);
        }
    }

    #[test]
    fn the_loss_is_that_of_the_definition() {
        let (variances, ties) = ([1.0, 4.0, 9.0, 2.0], [0, 1, 2, 3]);
        let sample = Sample { weights: vec![1.0, -2.0, 0.5, 0.25, -1.0, -1.0, 3.0, 1.0], shares: vec![1.0, 2.0] };
        let inputs = Inputs { variances: &variances, ties: &ties, group: 2, symmetric: false, whole_powers: false };
        // Ranges of the scaled groups: 2 + 4 and 0.5 + 0, 2 + 0 and 3 + 0.
        let expected = (36.0 + 2.0 * 4.0) * (0.25 + 1.0) + (0.25 + 2.0 * 9.0) * (9.0 + 0.5);
        let found = loss(&sample, inputs, &[2.0, 2.0, 1.0, 2.0]);
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn inputs_that_are_alike_are_left_alone_and_ties_have_one_scale() {
        let ties = [0, 1, 0, 1, 2, 3, 2, 3];
        let variances = [9.0, 1.0, 5.0, 1.0, 1.0, 2.0, 1.0, 60.0];
        let inputs = Inputs { variances: &variances, ties: &ties, group: 4, symmetric: false, whole_powers: false };
        let choice = balance(&sample(16, 8), inputs, all).unwrap();
        for (tie, scale) in ties.iter().zip(&choice.scales) {
            let first = ties.iter().position(|other| other == tie).unwrap();
            assert_eq!(scale.to_bits(), choice.scales[first].to_bits());
        }
        let even = Sample { weights: vec![0.5; 64], shares: vec![1.0; 8] };
        let inputs = Inputs { variances: &[1.0; 8], ..inputs };
        let choice = balance(&even, inputs, all).unwrap();
        assert_eq!((choice.scales, choice.ratio.to_bits()), (vec![1.0; 8], 1.0_f64.to_bits()));
    }

    #[test]
    fn scales_undo_what_inputs_and_weights_were_scaled_by() {
        let original = sample(24, 64);
        let ties: Vec<_> = (0..64).collect();
        let variances = [1.0; 64];
        let inputs = Inputs { variances: &variances, ties: &ties, group: 32, symmetric: false, whole_powers: false };
        let plain = balance(&original, inputs, all).unwrap();
        // The same function with inputs of other sizes.
        let by: Vec<f32> = noise(64, 9).iter().map(|x| (4.0 * x).exp2()).collect();
        let weights = original.weights.iter().zip(by.iter().cycle()).map(|(weight, by)| weight / by).collect();
        let variances: Vec<_> = by.iter().map(|by| f64::from(*by).powi(2)).collect();
        let inputs = Inputs { variances: &variances, ..inputs };
        let spoiled = Sample { weights, ..original };
        let choice = balance(&spoiled, inputs, all).unwrap();
        assert!(choice.ratio < 0.2, "{}", choice.ratio);
        let powers = balance(&spoiled, Inputs { whole_powers: true, ..inputs }, all).unwrap();
        assert!(powers.ratio < 0.3 && powers.ratio > choice.ratio, "{}", powers.ratio);
        assert!(powers.scales.iter().all(|scale| scale.log2().fract() == 0.0), "{:?}", powers.scales);
        let found = loss(&spoiled, inputs, &choice.scales);
        let inputs = Inputs { variances: &[1.0; 64], ..inputs };
        let best = loss(&sample(24, 64), inputs, &plain.scales);
        assert!(found < 1.1 * best, "{found} {best}");
    }

    #[test]
    fn weights_or_inputs_of_nothing_have_no_scales() {
        let ties: Vec<_> = (0..8).collect();
        for (weight, variance) in [(0.0, 1.0), (1.0, 0.0)] {
            let sample = Sample { weights: vec![weight; 16], shares: vec![1.0; 2] };
            let inputs =
                Inputs { variances: &[variance; 8], ties: &ties, group: 4, symmetric: true, whole_powers: false };
            assert_eq!(balance(&sample, inputs, all).unwrap(), Choice::none(8));
        }
    }
}
