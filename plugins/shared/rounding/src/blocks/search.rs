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
    search::FITS,
    simd::{Lanes, Simd, TILE},
    tile::stored,
};

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
    let sub_block = SubBlock { minima: scheme.minima, nearest, targets, weights };
    if scheme.minima == Minima::None {
        let reach = Lanes::of(|lane| high.0[lane].max(-low.0[lane]));
        for factor in factors(greatest - least, candidates / 2, -least / greatest) {
            for sign in &[1.0, -1.0][..if scheme.signed { 2 } else { 1 }] {
                let scale = Lanes::of(|lane| sign * factor * reach.0[lane] / -least);
                sub_block.attempt::<S>(&Affine { scale, offset: Lanes::ZERO }, &mut best);
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
            sub_block.attempt::<S>(&Affine { scale, offset }, &mut best);
        }
    }
    for _ in 0..FITS {
        let affine = best.affine;
        sub_block.attempt::<S>(&affine, &mut best);
    }
    Free { sums: Sums::of::<S, V>(nearest, &best.affine, targets, weights), affine: best.affine }
}

/// A sub-block whose scale is searched.
struct SubBlock<'a, V> {
    minima: Minima,
    nearest: V,
    targets: &'a [Lanes],
    weights: &'a [f32],
}

impl<V: Nearest> SubBlock<'_, V> {
    /// Fits a scale and an offset to the values that these give, and takes them where they lose less. (A closure would
    /// not be compiled for the instructions of its caller.)
    #[inline(always)]
    fn attempt<S: Simd>(&self, affine: &Affine, best: &mut Best) {
        let fitted = Sums::of::<S, V>(self.nearest, affine, self.targets, self.weights).solve(self.minima, affine);
        best.take(&loss::<S, V>(self.nearest, &fitted, self.targets, self.weights), &fitted);
    }
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
pub(super) fn numbers<S: Simd>(scheme: &Scheme, free: &[Free]) -> (Lanes, Lanes) {
    if let [only] = free {
        let Affine { scale, offset } = only.affine;
        return (Lanes::of(|lane| stored(scale.0[lane])), Lanes::of(|lane| stored(-offset.0[lane])));
    }
    let range = scheme.scales.map(f32::from);
    let mut wished: [(Lanes, Lanes); MOST_SUB_BLOCKS] = [(Lanes::ZERO, Lanes::ZERO); MOST_SUB_BLOCKS];
    let wished = &mut wished[..free.len()];
    for (wished, free) in wished.iter_mut().zip(free) {
        *wished = (free.affine.scale, free.sums.stiffness(scheme.minima));
    }
    let d = unit::<S>(wished, range, scheme.signed);
    let Minima::Multiples(most) = scheme.minima else { return (d, Lanes::ZERO) };
    for (wished, Free { affine, sums }) in wished.iter_mut().zip(free) {
        wished.0 = Lanes::of(|lane| {
            let multiple = multiple::<S>(affine.scale.0[lane], d.0[lane], range);
            (-shifted(affine, sums, lane, d.0[lane] * multiple)).max(0.0)
        });
        wished.1 = Lanes([sums.one; TILE]);
    }
    (d, unit::<S>(wished, [0.0, f32::from(most)], false))
}

/// The best offset when the scale is another than the best.
#[inline(always)]
fn shifted(affine: &Affine, sums: &Sums, lane: usize, scale: f32) -> f32 {
    let per_scale = sums.v.0[lane] / sums.one.max(f32::MIN_POSITIVE);
    affine.offset.0[lane] + per_scale * (affine.scale.0[lane] - scale)
}

/// The multiple of a unit that is nearest to a number.
#[inline(always)]
fn multiple<S: Simd>(number: f32, unit: f32, [least, greatest]: [f32; 2]) -> f32 {
    let exact = if unit == 0.0 { 0.0 } else { number / unit };
    S::round(exact.max(least).min(greatest))
}

/// Sub-blocks of a block, at most.
const MOST_SUB_BLOCKS: usize = 16;

/// The units whose multiples come nearest to some numbers, each with the weight of its error.
#[inline(always)]
fn unit<S: Simd>(wished: &[(Lanes, Lanes)], range: [f32; 2], signed: bool) -> Lanes {
    const STEPS: i16 = 6;
    let mut extreme = Lanes::ZERO;
    for (number, _) in wished {
        for lane in 0..TILE {
            let (most, number) = (extreme.0[lane], number.0[lane]);
            extreme.0[lane] = if number.abs() > most.abs() { number } else { most };
        }
    }
    let mut best = (Lanes([f32::INFINITY; TILE]), Lanes::ZERO);
    let ends = [range[1], range[0]];
    for end in &ends[..if signed && range[0] < 0.0 { 2 } else { 1 }] {
        for step in -STEPS..=STEPS {
            let at = end + end.signum() * 0.15 * f32::from(step);
            let unit = Lanes::of(|lane| extreme.0[lane] / at);
            let fitted = try_unit::<S>(wished, range, &unit, &mut best);
            try_unit::<S>(wished, range, &fitted, &mut best);
        }
    }
    best.1
}

/// Takes units where less is lost with them; gives those that fit the multiples best that these give.
#[inline(always)]
fn try_unit<S: Simd>(wished: &[(Lanes, Lanes)], range: [f32; 2], unit: &Lanes, best: &mut (Lanes, Lanes)) -> Lanes {
    let unit = Lanes::of(|lane| stored(unit.0[lane]));
    let (mut loss, mut above, mut below) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for (number, weight) in wished {
        for lane in 0..TILE {
            let (number, weight) = (number.0[lane], weight.0[lane]);
            let multiple = multiple::<S>(number, unit.0[lane], range);
            let error = S::mul_add(-unit.0[lane], multiple, number);
            loss.0[lane] = S::mul_add(weight * error, error, loss.0[lane]);
            above.0[lane] = S::mul_add(weight * number, multiple, above.0[lane]);
            below.0[lane] = S::mul_add(weight * multiple, multiple, below.0[lane]);
        }
    }
    for lane in 0..TILE {
        let better = loss.0[lane] < best.0.0[lane];
        best.0.0[lane] = if better { loss.0[lane] } else { best.0.0[lane] };
        best.1.0[lane] = if better { unit.0[lane] } else { best.1.0[lane] };
    }
    Lanes::of(|lane| if below.0[lane] > 0.0 { above.0[lane] / below.0[lane] } else { unit.0[lane] })
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
    let middle = Lanes::of(|lane| multiple::<S>(affine.scale.0[lane], d.0[lane], range));
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
