//! Operations on each number by itself.

use rayon::prelude::*;

use super::{
    math,
    simd::{Job, Simd},
};
use crate::Activation;

/// Numbers that one thread takes at a time.
pub(super) const PIECE: usize = 16 << 10;

/// `activation(gate) · up`.
pub(super) struct Activate<'a> {
    pub(super) gate: &'a mut [f32],
    pub(super) up: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

impl Job for Activate<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        self.gate.par_chunks_mut(PIECE).enumerate().for_each(|(piece, gate)| {
            let up = self.up.map(|up| &up[piece * PIECE..][..gate.len()]);
            simd.vectorize(|| activate::<S>(gate, up, self.activation));
        });
    }
}

#[inline(always)]
fn activate<S: Simd>(gate: &mut [f32], up: Option<&[f32]>, activation: Activation) {
    match activation {
        Activation::Silu => map(gate, up, |x| x * math::sigmoid::<S>(x)),
        Activation::Gelu => map(gate, up, |x| x * math::normal::<S>(x)),
        // (1 + tanh u) / 2 is the sigmoid of 2 u.
        Activation::GeluTanh => map(gate, up, |x| {
            const TWICE: f32 = 1.595_769;
            x * math::sigmoid::<S>(TWICE * S::mul_add(0.044_715 * x * x, x, x))
        }),
        Activation::GeluQuick => map(gate, up, |x| x * math::sigmoid::<S>(1.702 * x)),
        Activation::Relu => map(gate, up, positive),
        Activation::SquaredRelu => map(gate, up, |x| positive(x) * positive(x)),
        Activation::ClampedSwiglu { alpha, limit } => {
            let clamped = |gate: f32, up: f32| {
                let gate = if gate > limit { limit } else { gate };
                let up = if up > limit { limit } else { up };
                let up = if up < -limit { -limit } else { up };
                (up + 1.0) * gate * math::sigmoid::<S>(alpha * gate)
            };
            match up {
                Some(up) => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = clamped(*gate, *up)),
                None => gate.iter_mut().for_each(|gate| *gate = clamped(*gate, 0.0)),
            }
        }
    }
}

/// `max(x, 0)`, and NaN of NaN.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn map(gate: &mut [f32], up: Option<&[f32]>, activated: impl Fn(f32) -> f32) {
    match up {
        Some(up) => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = activated(*gate) * up),
        None => gate.iter_mut().for_each(|gate| *gate = activated(*gate)),
    }
}

/// `x = cap · tanh(x / cap)`.
pub(super) struct SoftCap<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) cap: f32,
}

impl Job for SoftCap<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let cap = self.cap;
        self.x.par_chunks_mut(PIECE).for_each(|x| {
            simd.vectorize(|| x.iter_mut().for_each(|x| *x = cap * math::tanh::<S>(*x / cap)));
        });
    }
}

/// `y += factor · x`.
pub(super) struct Add<'a> {
    pub(super) y: &'a mut [f32],
    pub(super) factor: f32,
    pub(super) x: &'a [f32],
}

impl Job for Add<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let factor = self.factor;
        self.y.par_chunks_mut(PIECE).zip(self.x.par_chunks(PIECE)).for_each(|(y, x)| {
            simd.vectorize(|| y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x));
        });
    }
}

/// `x *= factor`.
pub(super) struct Scale<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) factor: f32,
}

impl Job for Scale<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let factor = self.factor;
        self.x.par_chunks_mut(PIECE).for_each(|x| simd.vectorize(|| x.iter_mut().for_each(|x| *x *= factor)));
    }
}

/// The index of the first number that is not finite.
pub(super) struct FirstNotFinite<'a> {
    pub(super) x: &'a [f32],
}

impl Job for FirstNotFinite<'_> {
    type Output = Option<usize>;

    fn run<S: Simd>(self, simd: S) -> Option<usize> {
        self.x.par_chunks(PIECE).enumerate().find_map_first(|(piece, x)| {
            // All numbers are looked at: a loop that may stop early is no vector instructions.
            let any =
                simd.vectorize(|| x.iter().fold(false, |any, x| any | (x.abs().to_bits() >= f32::INFINITY.to_bits())));
            let at = if any { x.iter().position(|x| !x.is_finite()) } else { None };
            at.map(|at| piece * PIECE + at)
        })
    }
}
