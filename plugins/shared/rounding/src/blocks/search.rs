//! Scales and minima before codes are known.
//!
//! The loss of a column is its conditional variance times the square of the error that is left to it, so errors are
//! weighed by that. First each sub-block's scale and minimum are searched as if they were free; then the numbers of the
//! block of which they have to be multiples; and in the end, on the targets with all errors so far, the multiples.

use super::{
    fit::{Best, Sums, loss},
    scheme::{Minima, Nearest, Scheme},
    state::Affine,
};
use crate::{
    simd::{Lanes, Simd, TILE},
    tile::stored,
};

/// Times that the best scale is fitted to its codes, and codes to the scale.
const FITS: usize = 2;

/// What is known of a sub-block whose scale is free.
#[derive(Clone, Copy)]
pub(super) struct Free {
    pub(super) affine: Affine,
    pub(super) sums: Sums,
}

/// Finds the best scale and offset of a sub-block.
#[inline(always)]
pub(super) fn free<S: Simd, V: Nearest>(
    scheme: &Scheme,
    nearest: V,
    candidates: usize,
    targets: &[Lanes],
    weights: &[f32],
) -> Free {
    let (mut low, mut high) = (targets[0], targets[0]);
    for target in targets {
        for lane in 0..TILE {
            low.0[lane] = low.0[lane].min(target.0[lane]);
            high.0[lane] = high.0[lane].max(target.0[lane]);
        }
    }
    let (least, greatest) = nearest.range();
    let mut best = Best::NONE;
    let attempt = |affine: &Affine, best: &mut Best| {
        let fitted = Sums::of::<S, V>(nearest, affine, targets, weights).solve(scheme.minima, affine);
        best.take(&loss::<S, V>(nearest, &fitted, targets, weights), &fitted);
    };
    if scheme.minima == Minima::None {
        let reach = Lanes::of(|lane| high.0[lane].max(-low.0[lane]));
        for factor in factors(greatest - least, candidates / 2, -least / greatest) {
            for sign in [1.0, -1.0] {
                let scale = Lanes::of(|lane| sign * factor * reach.0[lane] / -least);
                attempt(&Affine { scale, offset: Lanes::ZERO }, &mut best);
            }
        }
    } else {
        if scheme.minima != Minima::Own {
            low = Lanes::of(|lane| low.0[lane].min(0.0));
        }
        for (index, factor) in factors(greatest, candidates / 2, 1.0).enumerate() {
            let scale = Lanes::of(|lane| factor * (high.0[lane] - low.0[lane]).max(0.0) / greatest);
            // What is beyond the ends is clipped: at both, or at the upper one.
            let offset = Lanes::of(|lane| match index % 2 {
                0 => low.0[lane],
                _ => 0.5 * (high.0[lane] + low.0[lane] - scale.0[lane] * greatest),
            });
            let offset = Lanes::of(|lane| match scheme.minima {
                Minima::Own => offset.0[lane],
                _ => offset.0[lane].min(0.0),
            });
            attempt(&Affine { scale, offset }, &mut best);
        }
    }
    for _ in 0..FITS {
        let affine = best.affine;
        attempt(&affine, &mut best);
    }
    Free { sums: Sums::of::<S, V>(nearest, &best.affine, targets, weights), affine: best.affine }
}

/// Parts of the scale at which nothing is clipped: with fewer values more is worth clipping.
#[expect(clippy::cast_precision_loss, reason = "a few steps")]
fn factors(values: f32, candidates: usize, first: f32) -> impl Iterator<Item = f32> {
    let last = match values {
        ..4.0 => 0.4,
        ..8.0 => 0.5,
        ..16.0 => 0.6,
        ..32.0 => 0.75,
        ..64.0 => 0.85,
        // Sixteen values of uneven steps are among these: their span is large, and they are few.
        ..250.0 => 0.6,
        _ => 0.95,
    };
    let steps = candidates.max(2) - 1;
    (0..candidates.max(2)).map(move |step| first - (first - last) * step as f32 / steps as f32)
}

/// The numbers of a block, `d` and `m`, for sub-blocks whose scales and offsets would best be these.
#[inline(always)]
pub(super) fn numbers(scheme: &Scheme, free: &[Free]) -> (Lanes, Lanes) {
    if let [only] = free {
        let Affine { scale, offset } = only.affine;
        return (Lanes::of(|lane| stored(scale.0[lane])), Lanes::of(|lane| stored(-offset.0[lane])));
    }
    let [least, greatest] = scheme.scales.map(f32::from);
    let (mut d, mut m) = (Lanes::ZERO, Lanes::ZERO);
    let stiff: Vec<_> = free.iter().map(|free| free.sums.stiffness(scheme.minima)).collect();
    for lane in 0..TILE {
        let scales = || free.iter().zip(&stiff).map(|(free, stiff)| (free.affine.scale.0[lane], stiff.0[lane]));
        d.0[lane] = unit(scales, [least, greatest], scheme.signed);
        if let Minima::Multiples(most) = scheme.minima {
            let minima = || {
                free.iter().map(|Free { affine, sums }| {
                    let scale = affine.scale.0[lane];
                    let multiple = multiple(scale, d.0[lane], [least, greatest]);
                    let offset = shifted(affine, sums, lane, d.0[lane] * multiple);
                    ((-offset).max(0.0), sums.one)
                })
            };
            m.0[lane] = unit(minima, [0.0, f32::from(most)], false);
        }
    }
    (d, m)
}

/// The best offset when the scale is another than the best.
#[inline(always)]
fn shifted(affine: &Affine, sums: &Sums, lane: usize, scale: f32) -> f32 {
    let per_scale = sums.v.0[lane] / sums.one.max(f32::MIN_POSITIVE);
    affine.offset.0[lane] + per_scale * (affine.scale.0[lane] - scale)
}

/// The multiple of a unit that is nearest to a number.
#[inline(always)]
fn multiple(number: f32, unit: f32, [least, greatest]: [f32; 2]) -> f32 {
    if unit == 0.0 { 0.0_f32.max(least) } else { (number / unit).clamp(least, greatest).round_ties_even() }
}

/// The unit whose multiples come nearest to some numbers, each with the weight of its error.
#[inline(always)]
fn unit<I: Iterator<Item = (f32, f32)>>(numbers: impl Fn() -> I, [least, greatest]: [f32; 2], signed: bool) -> f32 {
    const STEPS: i16 = 6;
    let extreme = numbers().fold(0.0_f32, |most, (number, _)| if number.abs() > most.abs() { number } else { most });
    if extreme == 0.0 || !extreme.is_finite() {
        return 0.0;
    }
    let mut best = (f32::INFINITY, 0.0);
    let mut attempt = |unit: f32| {
        let unit = stored(unit);
        let (mut loss, mut above, mut below) = (0.0, 0.0, 0.0);
        for (number, weight) in numbers() {
            let multiple = multiple(number, unit, [least, greatest]);
            loss += weight * (number - unit * multiple).powi(2);
            above += weight * number * multiple;
            below += weight * multiple * multiple;
        }
        if loss < best.0 {
            best = (loss, unit);
        }
        if below > 0.0 { above / below } else { unit }
    };
    let ends = [Some(greatest), Some(least).filter(|least| signed && *least < 0.0)];
    for end in ends.into_iter().flatten() {
        for step in -STEPS..=STEPS {
            let fitted = attempt(extreme / (end + end.signum() * 0.15 * f32::from(step)));
            attempt(fitted);
        }
    }
    best.1
}

/// The multiples of a sub-block's scale and minimum for these targets, near the best free ones for other targets.
#[inline(always)]
pub(super) fn multiples<S: Simd, V: Nearest>(
    scheme: &Scheme,
    nearest: V,
    (d, m): (&Lanes, &Lanes),
    near: &Affine,
    targets: &[Lanes],
    weights: &[f32],
) -> (Lanes, Lanes) {
    let mut affine = *near;
    for _ in 0..FITS {
        affine = Sums::of::<S, V>(nearest, &affine, targets, weights).solve(scheme.minima, &affine);
    }
    let sums = Sums::of::<S, V>(nearest, &affine, targets, weights);
    let range = scheme.scales.map(f32::from);
    let most = match scheme.minima {
        Minima::Multiples(most) => f32::from(most),
        _ => 0.0,
    };
    let mut best = Best::NONE;
    let (mut scales, mut minima) = (Lanes::ZERO, Lanes::ZERO);
    let middle = Lanes::of(|lane| multiple(affine.scale.0[lane], d.0[lane], range));
    for step in [0.0, -1.0, 1.0] {
        let tried = Lanes::of(|lane| (middle.0[lane] + step).clamp(range[0], range[1]));
        let scale = Lanes::of(|lane| d.0[lane] * tried.0[lane]);
        let wished = Lanes::of(|lane| {
            let offset = shifted(&affine, &sums, lane, scale.0[lane]);
            if m.0[lane] > 0.0 { (-offset / m.0[lane]).clamp(0.0, most) } else { 0.0 }
        });
        for up in [false, true] {
            if up && most == 0.0 {
                break;
            }
            let minimum = Lanes::of(|lane| if up { wished.0[lane].ceil() } else { wished.0[lane].floor() });
            let offset = Lanes::of(|lane| -m.0[lane] * minimum.0[lane]);
            let affine = Affine { scale, offset };
            let better = best.take(&loss::<S, V>(nearest, &affine, targets, weights), &affine);
            for (lane, better) in better.into_iter().enumerate() {
                scales.0[lane] = if better { tried.0[lane] } else { scales.0[lane] };
                minima.0[lane] = if better { minimum.0[lane] } else { minima.0[lane] };
            }
        }
    }
    (scales, minima)
}
