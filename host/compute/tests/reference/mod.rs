//! The operations as their definitions say, in `f64`, and numbers to try them on.

#![allow(dead_code, reason = "every test uses some of it")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "numbers to try")]

use half::{bf16, f16};
use qhost_compute::{Attention, Cpu, Dtype, InstructionSet, Stored};

/// Numbers that look like activations.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, with a deviation of 1.
    pub(crate) fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| ((0..4).map(|_| self.uniform()).sum::<f64>() - 2.0) as f32 * 1.732).collect()
    }
}

/// Stored as `dtype`, after `skip` other bytes.
pub(crate) fn store(numbers: &[f32], dtype: Dtype, skip: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; skip];
    for number in numbers {
        match dtype {
            Dtype::F32 => bytes.extend(number.to_le_bytes()),
            Dtype::F16 => bytes.extend(f16::from_f32(*number).to_le_bytes()),
            Dtype::BF16 => bytes.extend(bf16::from_f32(*number).to_le_bytes()),
        }
    }
    bytes
}

/// What is stored.
pub(crate) fn widen(stored: &Stored<'_>) -> Vec<f64> {
    let bytes = stored.bytes;
    match stored.dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|raw| f64::from(f32::from_le_bytes(*raw))).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|raw| f16::from_le_bytes(*raw).to_f64()).collect(),
        Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|raw| bf16::from_le_bytes(*raw).to_f64()).collect(),
    }
}

/// `x Wᵀ + bias`, and the sum of the terms' magnitudes, which errors are measured by.
pub(crate) fn linear(x: &[f32], stored: &Stored<'_>, bias: Option<&[f32]>) -> Vec<(f64, f64)> {
    let (inputs, outputs) = (stored.inputs, stored.outputs);
    let w = widen(stored);
    let mut out = Vec::new();
    for x in x.chunks(inputs) {
        for output in 0..outputs {
            let terms = x.iter().enumerate().map(|(input, x)| {
                f64::from(*x) * if stored.transposed { w[input * outputs + output] } else { w[output * inputs + input] }
            });
            let bias = bias.map_or(0.0, |bias| f64::from(bias[output]));
            out.push((terms.clone().sum::<f64>() + bias, terms.map(f64::abs).sum::<f64>() + bias.abs()));
        }
    }
    out
}

/// `xᵀx`, both triangles, and the sums of magnitudes.
pub(crate) fn gram(x: &[f32], width: usize) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); width * width];
    for x in x.chunks(width) {
        for i in 0..width {
            for j in 0..width {
                let term = f64::from(x[i]) * f64::from(x[j]);
                out[i * width + j].0 += term;
                out[i * width + j].1 += term.abs();
            }
        }
    }
    out
}

/// `aᵀb`, and the sums of magnitudes.
pub(crate) fn cross((a, height): (&[f32], usize), (b, width): (&[f32], usize)) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); height * width];
    for (a, b) in a.chunks(height).zip(b.chunks(width)) {
        for i in 0..height {
            for j in 0..width {
                let term = f64::from(a[i]) * f64::from(b[j]);
                out[i * width + j].0 += term;
                out[i * width + j].1 += term.abs();
            }
        }
    }
    out
}

/// Causal softmax attention.
pub(crate) fn attention(
    (q, k, v): (&[f32], &[f32], &[f32]),
    lengths: &[usize],
    shape: &Attention,
    sinks: Option<&[f32]>,
) -> Vec<f64> {
    let &Attention { heads, kv_heads, key, value, scale, soft_cap, window } = shape;
    let mut out = Vec::new();
    let mut start = 0;
    for &length in lengths {
        for row in start..start + length {
            let first = window.map_or(start, |window| start.max((row + 1).saturating_sub(window)));
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let query = &q[(row * heads + head) * key..][..key];
                let scores: Vec<f64> = (first..=row)
                    .map(|other| {
                        let keys = &k[(other * kv_heads + kv) * key..][..key];
                        let products = query.iter().zip(keys).map(|(q, k)| f64::from(*q) * f64::from(*k));
                        let score = products.sum::<f64>() * f64::from(scale);
                        soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let sink = sinks.map(|sinks| f64::from(sinks[head]));
                let most = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - most).exp());
                for i in 0..value {
                    let terms = (first..=row)
                        .zip(&weights)
                        .map(|(other, weight)| weight / sum * f64::from(v[(other * kv_heads + kv) * value + i]));
                    out.push(terms.sum());
                }
            }
        }
        start += length;
    }
    out
}

/// The CPU with every set of instructions that it has.
pub(crate) fn cpus() -> impl Iterator<Item = Cpu> {
    InstructionSet::available().into_iter().filter_map(Cpu::with)
}

/// Runs `work` on that many threads.
pub(crate) fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Bit by bit.
pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
