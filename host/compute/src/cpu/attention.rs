//! Softmax attention by tiles, with a running maximum (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! Queries stand in the lanes of vectors: scores are `K Qᵀ`, `[keys, queries]`, which is just what the product
//! with the values reads. Keys are taken [`KEYS`] at a time from the start of the sequence, so that the result
//! of a query depends on nothing but what it sees.
#![expect(unsafe_code, reason = "threads write rectangles of one matrix")]

use std::ops::Range;

use rayon::prelude::*;

use super::{
    math,
    pack::Operand,
    scratch,
    simd::{Job, Simd},
    tiles::Tiles,
};
use crate::Attention;

/// Keys that are taken at a time, a multiple of every set's rows of a tile; part of what a result is.
const KEYS: usize = 252;

/// Rows of sequences whose keys and values are packed at a time, unless one is longer.
const ROWS: usize = 2048;

/// Attention within sequences.
pub(super) struct Softmax<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) lengths: &'a [usize],
    pub(super) shape: &'a Attention,
    pub(super) sinks: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
}

impl Job for Softmax<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Attention { heads, kv_heads, value, .. } = *self.shape;
        let mut sequences = Vec::new();
        let mut start = 0;
        for &length in self.lengths {
            sequences.push(start..start + length);
            start += length;
        }
        let tiles = Tiles::new(self.out, heads * value);
        let mut rest = &sequences[..];
        while let Some(first) = rest.first() {
            let fit = rest.iter().take_while(|sequence| sequence.end - first.start <= ROWS).count().max(1);
            let (taken, behind) = rest.split_at(fit);
            rest = behind;
            let pairs = taken.par_iter().flat_map(|rows| (0..kv_heads).into_par_iter().map(move |head| (rows, head)));
            let context: Vec<Context> =
                pairs.map(|(rows, head)| Context::new(simd, self.k, self.v, self.shape, rows.clone(), head)).collect();
            let strips: Vec<(usize, usize, usize)> = taken
                .iter()
                .enumerate()
                .flat_map(|(i, rows)| {
                    let starts = move |head| (0..rows.len()).step_by(S::COLUMNS).map(move |query| (i, head, query));
                    (0..heads).flat_map(starts)
                })
                .collect();
            strips.into_par_iter().for_each(|(sequence, head, query)| {
                let rows = taken[sequence].clone();
                let context = &context[sequence * kv_heads + head / (heads / kv_heads)];
                let sink = self.sinks.map(|sinks| sinks[head]);
                strip(simd, self.q, rows.clone(), head, query, context, self.shape, sink, |lane, numbers| {
                    let columns = head * value..(head + 1) * value;
                    // SAFETY: no other strip has this head of this row.
                    let out = unsafe { tiles.piece(rows.start + query + lane, columns) };
                    out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number);
                });
            });
        }
    }
}

/// The keys and values of a head of a sequence, packed.
struct Context {
    keys: Vec<f32>,
    values: Vec<f32>,
    length: usize,
}

impl Context {
    fn new<S: Simd>(simd: S, k: &[f32], v: &[f32], shape: &Attention, rows: Range<usize>, head: usize) -> Self {
        let &Attention { kv_heads, key, value, .. } = shape;
        let length = rows.len();
        let keys = Operand::head(k, rows.clone(), kv_heads, key, head);
        let mut packed_keys = vec![0.0; length.next_multiple_of(S::ROWS) * key];
        for (panel, out) in packed_keys.chunks_mut(S::ROWS * key).enumerate() {
            keys.panel(simd, panel * S::ROWS, S::ROWS, out);
        }
        let values = Operand::head(v, rows, kv_heads, value, head).turned();
        let panels = value.div_ceil(S::ROWS);
        let mut packed_values = vec![0.0; panels * S::ROWS * length];
        for (block, out) in packed_values.chunks_mut(panels * S::ROWS * KEYS).enumerate() {
            let values = values.cut(block * KEYS..((block + 1) * KEYS).min(length));
            for (panel, out) in out.chunks_mut(S::ROWS * values.depth).enumerate() {
                values.panel(simd, panel * S::ROWS, S::ROWS, out);
            }
        }
        Self { keys: packed_keys, values: packed_values, length }
    }

    /// Panel `panel` of the values of `keys`, which are within one block.
    fn values<S: Simd>(&self, panels: usize, panel: usize, keys: Range<usize>) -> &[f32] {
        let block = keys.start / KEYS * KEYS;
        let depth = KEYS.min(self.length - block);
        let start = panels * S::ROWS * block + panel * S::ROWS * depth;
        &self.values[start..][S::ROWS * (keys.start - block)..S::ROWS * (keys.end - block)]
    }
}

/// What a query sees, of the queries from `query` on: keys up to itself, and no more than the window.
struct Mask {
    query: usize,
    window: Option<usize>,
}

impl Mask {
    /// The first key that query `lane` sees.
    fn first(&self, lane: usize) -> usize {
        self.window.map_or(0, |window| (self.query + lane + 1).saturating_sub(window))
    }

    /// Which of `lanes` queries see a key.
    #[inline(always)]
    fn lanes(&self, key: usize, lanes: usize) -> Range<usize> {
        let first = key.saturating_sub(self.query);
        let end = self.window.map_or(lanes, |window| (key + window).saturating_sub(self.query).min(lanes));
        first.min(end)..end
    }
}

/// One head of as many queries as a tile has columns.
#[expect(clippy::too_many_arguments, reason = "they are the operands of attention")]
fn strip<S: Simd>(
    simd: S,
    q: &[f32],
    rows: Range<usize>,
    head: usize,
    query: usize,
    context: &Context,
    shape: &Attention,
    sink: Option<f32>,
    finish: impl Fn(usize, &mut dyn Iterator<Item = f32>),
) {
    let &Attention { heads, key, value, window, .. } = shape;
    let lanes = S::COLUMNS;
    let count = lanes.min(rows.len() - query);
    let mask = Mask { query, window };
    let lengths = [key * lanes, KEYS * lanes, value * lanes, lanes, lanes];
    scratch::with(lengths, |[queries, scores, sums, most, total]| {
        Operand::head(q, rows, heads, key, head).panel(simd, query, lanes, queries);
        simd.vectorize(|| queries.iter_mut().for_each(|number| *number *= shape.scale));
        sums.fill(0.0);
        most.fill(sink.unwrap_or(f32::NEG_INFINITY));
        total.fill(if sink.is_some() { 1.0 } else { 0.0 });
        let panels = value.div_ceil(S::ROWS);
        let end = query + count;
        let mut start = mask.first(0) / S::ROWS * S::ROWS;
        while start < end {
            let keys = start..end.min((start / KEYS + 1) * KEYS);
            let scores = &mut scores[..keys.len() * lanes];
            scores.fill(0.0);
            for (panel, scores) in (keys.start / S::ROWS..).zip(scores.chunks_mut(S::ROWS * lanes)) {
                let keys = &context.keys[panel * S::ROWS * key..][..S::ROWS * key];
                simd.multiply(keys, queries, scores, lanes, scores.len() / lanes);
            }
            simd.vectorize(|| soften::<S>(scores, keys.start, &mask, shape, sums, most, total));
            for (panel, sums) in sums.chunks_mut(S::ROWS * lanes).enumerate() {
                let values = context.values::<S>(panels, panel, keys.clone());
                simd.multiply(values, scores, sums, lanes, sums.len() / lanes);
            }
            start = keys.end;
        }
        for sums in sums.chunks_mut(lanes) {
            sums.iter_mut().zip(&*total).for_each(|(sum, total)| *sum /= total);
        }
        for lane in 0..count {
            finish(lane, &mut sums.iter().skip(lane).step_by(lanes).copied());
        }
    });
}

/// Turns scores into weights, and scales what was summed with a smaller maximum.
#[inline(always)]
fn soften<S: Simd>(
    scores: &mut [f32],
    start: usize,
    mask: &Mask,
    shape: &Attention,
    sums: &mut [f32],
    most: &mut [f32],
    total: &mut [f32],
) {
    let groups = S::COLUMNS / 16;
    // What every query sees needs no mask.
    let clear = mask.first(S::COLUMNS - 1)..mask.query + 1;
    for (j, scores) in scores.chunks_exact_mut(S::COLUMNS).enumerate() {
        if let Some(cap) = shape.soft_cap {
            for score in &mut *scores {
                *score = cap * math::tanh::<S>(*score / cap);
            }
        }
        if !clear.contains(&(start + j)) {
            let seen = mask.lanes(start + j, S::COLUMNS);
            scores[..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..].fill(f32::NEG_INFINITY);
        }
    }
    let (scores, sums) = (scores.as_chunks_mut::<16>().0, sums.as_chunks_mut::<16>().0);
    let running = most.as_chunks_mut::<16>().0.iter_mut().zip(total.as_chunks_mut::<16>().0);
    for (group, (most, total)) in running.enumerate() {
        let mut highest = *most;
        for scores in scores.iter().skip(group).step_by(groups) {
            for (highest, score) in highest.iter_mut().zip(scores) {
                *highest = if *score > *highest { *score } else { *highest };
            }
        }
        // A query that has seen nothing yet has no maximum to subtract.
        let base = highest.map(|highest| if highest == f32::NEG_INFINITY { 0.0 } else { highest });
        let mut sum = [0.0; 16];
        for scores in scores.iter_mut().skip(group).step_by(groups) {
            for ((score, base), sum) in scores.iter_mut().zip(&base).zip(&mut sum) {
                *score = math::exp_below::<S>(*score - base);
                *sum += *score;
            }
        }
        let mut factor = [0.0; 16];
        for ((factor, most), base) in factor.iter_mut().zip(&*most).zip(&base) {
            *factor = math::exp_below::<S>(most - base);
        }
        for ((total, factor), sum) in total.iter_mut().zip(&factor).zip(&sum) {
            *total = *total * factor + sum;
        }
        for sums in sums.iter_mut().skip(group).step_by(groups) {
            sums.iter_mut().zip(&factor).for_each(|(sum, factor)| *sum *= factor);
        }
        *most = highest;
    }
}
