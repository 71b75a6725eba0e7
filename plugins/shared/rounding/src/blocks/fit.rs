//! Scale and offset of a sub-block for the least squares of the errors, each with the weight of its column.

use super::{
    scheme::{Minima, Nearest},
    state::Affine,
};
use crate::simd::{Lanes, Simd, TILE};

/// Weighted sums over the columns of a sub-block, `t` being the targets and `v` the values that stand for them.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Of `v²`.
    pub(super) vv: Lanes,
    /// Of `v`.
    pub(super) v: Lanes,
    /// Of 1, which is the same in all rows.
    pub(super) one: f32,
    /// Of `v t`.
    vt: Lanes,
    /// Of `t`.
    t: Lanes,
}

impl Sums {
    /// Those of the values nearest to the targets.
    #[inline(always)]
    pub(super) fn of<S: Simd, V: Nearest>(nearest: V, affine: &Affine, targets: &[Lanes], weights: &[f32]) -> Self {
        let inverse = affine.inverse();
        let mut sums = Self { vv: Lanes::ZERO, v: Lanes::ZERO, one: 0.0, vt: Lanes::ZERO, t: Lanes::ZERO };
        for (target, &weight) in targets.iter().zip(weights) {
            sums.one += weight;
            for lane in 0..TILE {
                let target = target.0[lane];
                let value = nearest.nearest::<S>((target - affine.offset.0[lane]) * inverse.0[lane]);
                let weighted = weight * value;
                sums.vv.0[lane] = S::mul_add(weighted, value, sums.vv.0[lane]);
                sums.v.0[lane] += weighted;
                sums.vt.0[lane] = S::mul_add(weighted, target, sums.vt.0[lane]);
                sums.t.0[lane] = S::mul_add(weight, target, sums.t.0[lane]);
            }
        }
        sums
    }

    /// The scale and offset of least error for these values.
    #[inline(always)]
    pub(super) fn solve(&self, minima: Minima, old: &Affine) -> Affine {
        let mut affine = *old;
        for lane in 0..TILE {
            let (vv, v, vt, t) = (self.vv.0[lane], self.v.0[lane], self.vt.0[lane], self.t.0[lane]);
            let alone = if vv > 0.0 { vt / vv } else { old.scale.0[lane] };
            if minima == Minima::None {
                affine.scale.0[lane] = alone;
                continue;
            }
            let determinant = vv * self.one - v * v;
            let sound = determinant > 1e-6 * vv * self.one;
            let mut scale = if sound { (self.one * vt - v * t) / determinant } else { old.scale.0[lane] };
            let mut offset = if sound { (vv * t - v * vt) / determinant } else { old.offset.0[lane] };
            if minima != Minima::Own && offset > 0.0 {
                (scale, offset) = (alone, 0.0);
            }
            if scale < 0.0 {
                scale = old.scale.0[lane];
            }
            (affine.scale.0[lane], affine.offset.0[lane]) = (scale, offset);
        }
        affine
    }

    /// What an error of the scale costs where the offset makes up for it as it can.
    #[inline(always)]
    pub(super) fn stiffness(&self, minima: Minima) -> Lanes {
        Lanes::of(|lane| match minima {
            Minima::None => self.vv.0[lane],
            _ => (self.vv.0[lane] - self.v.0[lane] * self.v.0[lane] / self.one.max(f32::MIN_POSITIVE)).max(0.0),
        })
    }
}

/// What is lost with a scale and an offset.
#[inline(always)]
pub(super) fn loss<S: Simd, V: Nearest>(nearest: V, affine: &Affine, targets: &[Lanes], weights: &[f32]) -> Lanes {
    let inverse = affine.inverse();
    let mut loss = Lanes::ZERO;
    for (target, &weight) in targets.iter().zip(weights) {
        for lane in 0..TILE {
            let above = target.0[lane] - affine.offset.0[lane];
            let value = nearest.nearest::<S>(above * inverse.0[lane]);
            let error = S::mul_add(-affine.scale.0[lane], value, above);
            loss.0[lane] = S::mul_add(weight * error, error, loss.0[lane]);
        }
    }
    loss
}

/// The best so far in every row.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) loss: Lanes,
    pub(super) affine: Affine,
}

impl Best {
    pub(super) const NONE: Self =
        Self { loss: Lanes([f32::INFINITY; TILE]), affine: Affine { scale: Lanes::ZERO, offset: Lanes::ZERO } };

    /// Takes what loses less; tells in which rows.
    #[inline(always)]
    pub(super) fn take(&mut self, loss: &Lanes, affine: &Affine) -> [bool; TILE] {
        let mut better = [false; TILE];
        for (lane, better) in better.iter_mut().enumerate() {
            *better = loss.0[lane] < self.loss.0[lane] && affine.scale.0[lane].is_finite();
            self.loss.0[lane] = if *better { loss.0[lane] } else { self.loss.0[lane] };
            let own = &mut self.affine;
            own.scale.0[lane] = if *better { affine.scale.0[lane] } else { own.scale.0[lane] };
            own.offset.0[lane] = if *better { affine.offset.0[lane] } else { own.offset.0[lane] };
        }
        better
    }
}
