//! What logits are worth: the likelihood of what came next, and how far two distributions are apart.
//!
//! Logits are `[rows, vocabulary]`. Exponentials are `f32`, their sums are `f64`; every row is summed in a fixed
//! order by one thread.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

use rayon::prelude::*;

use crate::{
    Cpu, Error,
    cpu::{
        math,
        simd::{Job, Simd},
    },
};

/// How two rows of logits differ.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Divergence {
    /// `KL(p ‖ q) = Σ p · ln(p / q)`, in nats.
    pub kl: f64,
    /// Whether the largest logits, the first of equal ones, are those of the same token.
    pub same_top: bool,
}

impl Cpu {
    /// `−ln softmax(logits)[target]` of every row; NaN if a logit is.
    pub fn negative_log_likelihood(
        &self,
        logits: &[f32],
        vocabulary: usize,
        targets: &[u32],
    ) -> Result<Vec<f64>, Error> {
        let most = targets.iter().max().map_or(0, |&most| most as usize + 1);
        if logits.len() != targets.len() * vocabulary || most > vocabulary {
            let detail = format!("{} for {} rows of {vocabulary}, token {most}", logits.len(), targets.len());
            return Err(Error::Shape { operation: "negative log likelihood", detail });
        }
        Ok(self.simd.run(Likelihood { logits, vocabulary, targets }))
    }

    /// How every row of `q` differs from that of `p`; NaN if a logit is.
    pub fn divergence(&self, p: &[f32], q: &[f32], vocabulary: usize) -> Result<Vec<Divergence>, Error> {
        if p.len() != q.len() || !p.len().is_multiple_of(vocabulary) {
            let detail = format!("{} and {} by {vocabulary}", p.len(), q.len());
            return Err(Error::Shape { operation: "divergence", detail });
        }
        Ok(self.simd.run(Divergences { p, q, vocabulary }))
    }
}

struct Likelihood<'a> {
    logits: &'a [f32],
    vocabulary: usize,
    targets: &'a [u32],
}

impl Job for Likelihood<'_> {
    type Output = Vec<f64>;

    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        let rows = self.logits.par_chunks_exact(self.vocabulary.max(1)).zip(self.targets);
        rows.map(|(row, &target)| {
            let normalizer = simd.vectorize(|| normalizer::<S>(row));
            normalizer.logarithm() + f64::from(normalizer.most) - f64::from(row[target as usize])
        })
        .collect()
    }
}

struct Divergences<'a> {
    p: &'a [f32],
    q: &'a [f32],
    vocabulary: usize,
}

impl Job for Divergences<'_> {
    type Output = Vec<Divergence>;

    fn run<S: Simd>(self, simd: S) -> Vec<Divergence> {
        let width = self.vocabulary.max(1);
        let rows = self.p.par_chunks_exact(width).zip(self.q.par_chunks_exact(width));
        rows.map(|(p, q)| {
            simd.vectorize(|| {
                let (of_p, of_q) = (normalizer::<S>(p), normalizer::<S>(q));
                // Σ p · (ln p − ln q), where logits are relative to the largest of their row.
                let products = difference::<S>(p, q, of_p.most, of_q.most);
                let kl = products / of_p.sum + of_q.logarithm() - of_p.logarithm();
                Divergence { kl, same_top: top(p, of_p.most) == top(q, of_q.most) }
            })
        })
        .collect()
    }
}

/// The largest logit of a row, and the sum of all exponentials relative to it.
struct Normalizer {
    most: f32,
    sum: f64,
}

impl Normalizer {
    fn logarithm(&self) -> f64 {
        libm::log(self.sum)
    }
}

/// Numbers that are summed in `f32`, in so many lanes.
const PIECE: usize = 256;
const LANES: usize = 32;

#[inline(always)]
fn normalizer<S: Simd>(row: &[f32]) -> Normalizer {
    let most = row.iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most });
    let mut sum = 0.0;
    for piece in row.chunks(PIECE) {
        let (chunks, rest) = piece.as_chunks::<LANES>();
        let mut lanes = [0.0_f32; LANES];
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += math::exp_below::<S>(*x - most);
            }
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        sum += rest.iter().map(|x| f64::from(math::exp_below::<S>(*x - most))).sum::<f64>();
    }
    Normalizer { most, sum }
}

/// `Σ eᵖ · (p − q)`.
#[inline(always)]
fn difference<S: Simd>(p: &[f32], q: &[f32], most_p: f32, most_q: f32) -> f64 {
    let term = |p: &f32, q: &f32| {
        let (p, q) = (p - most_p, q - most_q);
        let weight = math::exp_below::<S>(p);
        // What has no weight counts nothing, however unlikely it is: 0 · ∞ would not be a number.
        if weight == 0.0 { 0.0 } else { weight * (p - q) }
    };
    let mut sum = 0.0;
    for (p, q) in p.chunks(PIECE).zip(q.chunks(PIECE)) {
        let ((chunks_p, rest_p), (chunks_q, rest_q)) = (p.as_chunks::<LANES>(), q.as_chunks::<LANES>());
        let mut lanes = [0.0_f32; LANES];
        for (p, q) in chunks_p.iter().zip(chunks_q) {
            for ((lane, p), q) in lanes.iter_mut().zip(p).zip(q) {
                *lane += term(p, q);
            }
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        sum += rest_p.iter().zip(rest_q).map(|(p, q)| f64::from(term(p, q))).sum::<f64>();
    }
    sum
}

/// The first token with the largest logit.
#[inline(always)]
#[expect(clippy::float_cmp, reason = "the largest is one of them")]
fn top(row: &[f32], most: f32) -> Option<usize> {
    row.iter().position(|x| *x == most)
}
