//! The CPU.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

mod attention;
mod dense;
pub(crate) mod factor;
mod math;
mod pack;
mod product;
mod scratch;
mod simd;
mod tiles;

use rayon::prelude::*;

pub use self::simd::InstructionSet;
use self::{
    attention::Softmax,
    product::{Gram, Linear},
    simd::Chosen,
};
use crate::{Activation, Attention, Columns, Device, Error, Norm, NormKind, Rotation, Stored};

/// The CPU: all threads of the pool that the caller has installed.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub(crate) simd: Chosen,
}

impl Cpu {
    /// The CPU, with the best instructions that it has.
    #[must_use]
    pub fn new() -> Self {
        Self { simd: Chosen::best() }
    }

    /// The CPU, with some instructions that it may have.
    #[must_use]
    pub fn with(set: InstructionSet) -> Option<Self> {
        Some(Self { simd: Chosen::new(set)? })
    }

    /// The instructions it computes with.
    #[must_use]
    pub fn instruction_set(&self) -> InstructionSet {
        self.simd.set()
    }

    /// Computes tiles on operands that stay in the first cache: the most that this thread can reach.
    ///
    /// The number of operations is returned.
    #[doc(hidden)]
    pub fn spin(&self, rounds: usize) -> usize {
        self.simd.run(product::Spin { rounds })
    }

    /// Like [`Device::gram`], with the products of few rows at a time added in `f64`.
    pub fn gram_f64(&self, x: &[f32], width: usize, gram: &mut [f64]) -> Result<(), Error> {
        check("gram", gram.len() == width * width, || format!("{} for {width}", gram.len()))?;
        check("gram", x.len().is_multiple_of(width.max(1)), || format!("{} by {width}", x.len()))?;
        self.simd.run(Gram { x, width, sums: gram });
        Ok(())
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// Numbers that one thread takes at a time.
const PIECE: usize = 16 << 10;

fn check(operation: &'static str, fits: bool, detail: impl FnOnce() -> String) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::Shape { operation, detail: detail() }) }
}

impl Device for Cpu {
    type Buffer = Vec<f32>;
    type Matrix<'a> = Stored<'a>;

    fn upload(&self, numbers: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(numbers.to_vec())
    }

    fn zeros(&self, length: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; length])
    }

    fn length(&self, buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn download(&self, buffer: &Vec<f32>, out: &mut [f32]) -> Result<(), Error> {
        check("download", buffer.len() == out.len(), || format!("{} to {}", buffer.len(), out.len()))?;
        out.copy_from_slice(buffer);
        Ok(())
    }

    fn matrix<'a>(&self, stored: Stored<'a>) -> Result<Stored<'a>, Error> {
        let bytes = stored.outputs * stored.inputs * stored.dtype.bytes();
        check("matrix", stored.bytes.len() == bytes, || format!("{} bytes instead of {bytes}", stored.bytes.len()))?;
        Ok(stored)
    }

    fn linear(
        &self,
        x: &Vec<f32>,
        rows: usize,
        weights: &Stored<'_>,
        bias: Option<&Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let (inputs, outputs) = (weights.inputs, weights.outputs);
        check("linear", x.len() == rows * inputs, || format!("{} for {rows}×{inputs}", x.len()))?;
        check("linear", bias.is_none_or(|bias| bias.len() == outputs), || "bias".into())?;
        let mut out = vec![0.0; rows * outputs];
        if inputs == 0 || outputs == 0 {
            return Ok(out);
        }
        self.simd.run(Linear { x, weights: *weights, bias: bias.map(Vec::as_slice), out: &mut out });
        Ok(out)
    }

    fn norm(&self, x: &Vec<f32>, norm: &Norm<'_, Vec<f32>>) -> Result<Vec<f32>, Error> {
        let width = norm.width;
        let groups = norm.gain.map_or(1, |gain| gain.len() / width);
        check("norm", x.len().is_multiple_of(width * groups.max(1)), || format!("{} by {width}", x.len()))?;
        let mut out = x.clone();
        out.par_chunks_mut(width * groups).for_each(|row| {
            for (group, x) in row.chunks_mut(width).enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "a width is far below 2²⁴")]
                let count = width as f32;
                if norm.kind == NormKind::Layer {
                    let mean = x.iter().sum::<f32>() / count;
                    for x in x.iter_mut() {
                        *x -= mean;
                    }
                }
                let square = x.iter().map(|x| x * x).sum::<f32>() / count;
                let factor = 1.0 / (square + norm.epsilon).sqrt();
                let one = if norm.plus_one { 1.0 } else { 0.0 };
                for (i, x) in x.iter_mut().enumerate() {
                    let at = group * width + i;
                    *x *= factor;
                    if let Some(gain) = norm.gain {
                        *x *= gain[at] + one;
                    }
                    if let Some(bias) = norm.bias {
                        *x += bias[at];
                    }
                }
            }
        });
        Ok(out)
    }

    fn rotate(&self, x: &mut Vec<f32>, positions: &[u32], rotation: &Rotation<'_, Vec<f32>>) -> Result<(), Error> {
        let half = rotation.dimensions / 2;
        let width = x.len() / positions.len().max(1);
        check("rotate", width.is_multiple_of(rotation.head), || format!("{width} by {}", rotation.head))?;
        x.par_chunks_mut(width).zip(positions).for_each(|(row, &position)| {
            let table = position as usize * half..(position as usize + 1) * half;
            let (cosines, sines) = (&rotation.cosines[table.clone()], &rotation.sines[table]);
            for head in row.chunks_mut(rotation.head) {
                for i in 0..half {
                    let (a, b) = if rotation.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    let (a, b) = (rotation.first + a, rotation.first + b);
                    let (x, y) = (head[a], head[b]);
                    head[a] = x * cosines[i] - y * sines[i];
                    head[b] = y * cosines[i] + x * sines[i];
                }
            }
        });
        Ok(())
    }

    fn attention(
        &self,
        q: &Vec<f32>,
        k: &Vec<f32>,
        v: &Vec<f32>,
        lengths: &[usize],
        shape: &Attention,
        sinks: Option<&Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let &Attention { heads, kv_heads, key, value, .. } = shape;
        check("attention", kv_heads > 0 && heads.is_multiple_of(kv_heads), || format!("{heads} and {kv_heads} heads"))?;
        let rows: usize = lengths.iter().sum();
        check("attention", q.len() == rows * heads * key, || "queries".into())?;
        check("attention", k.len() == rows * kv_heads * key, || "keys".into())?;
        check("attention", v.len() == rows * kv_heads * value, || "values".into())?;
        check("attention", sinks.is_none_or(|sinks| sinks.len() == heads), || "sinks".into())?;
        let mut out = vec![0.0; rows * heads * value];
        let sinks = sinks.map(Vec::as_slice);
        self.simd.run(Softmax { q, k, v, lengths, shape, sinks, out: &mut out });
        Ok(out)
    }

    fn activate(&self, gate: &mut Vec<f32>, up: Option<&Vec<f32>>, activation: Activation) -> Result<(), Error> {
        check("activate", up.is_none_or(|up| up.len() == gate.len()), || "gate and up".into())?;
        gate.par_chunks_mut(PIECE).enumerate().for_each(|(piece, gate)| {
            let up = up.map(|up| &up[piece * PIECE..]);
            for (i, gate) in gate.iter_mut().enumerate() {
                *gate = activated(*gate, up.map(|up| up[i]), activation);
            }
        });
        Ok(())
    }

    fn add(&self, y: &mut Vec<f32>, factor: f32, x: &Vec<f32>) -> Result<(), Error> {
        check("add", y.len() == x.len(), || format!("{} and {}", y.len(), x.len()))?;
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
        });
        Ok(())
    }

    fn scale(&self, x: &mut Vec<f32>, factor: f32) -> Result<(), Error> {
        x.par_iter_mut().with_min_len(PIECE).for_each(|x| *x *= factor);
        Ok(())
    }

    fn soft_cap(&self, x: &mut Vec<f32>, cap: f32) -> Result<(), Error> {
        x.par_iter_mut().with_min_len(PIECE).for_each(|x| *x = cap * (*x / cap).tanh());
        Ok(())
    }

    fn columns(&self, x: &Vec<f32>, width: usize, columns: Columns) -> Result<Vec<f32>, Error> {
        check("columns", x.len().is_multiple_of(width), || format!("{} by {width}", x.len()))?;
        let mut out = vec![0.0; x.len() / width * columns.width()];
        out.par_chunks_mut(columns.width()).zip(x.par_chunks(width)).for_each(|(out, x)| {
            for (piece, out) in out.chunks_mut(columns.take).enumerate() {
                out.copy_from_slice(&x[columns.first + piece * columns.stride..][..columns.take]);
            }
        });
        Ok(out)
    }

    fn place(&self, out: &mut Vec<f32>, width: usize, columns: Columns, x: &Vec<f32>) -> Result<(), Error> {
        check("place", out.len() / width * columns.width() == x.len(), || format!("{}", x.len()))?;
        out.par_chunks_mut(width).zip(x.par_chunks(columns.width())).for_each(|(out, x)| {
            for (piece, x) in x.chunks(columns.take).enumerate() {
                out[columns.first + piece * columns.stride..][..columns.take].copy_from_slice(x);
            }
        });
        Ok(())
    }

    fn gather(&self, x: &Vec<f32>, width: usize, rows: &[u32]) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; rows.len() * width];
        out.par_chunks_mut(width).zip(rows).for_each(|(out, &row)| {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        });
        Ok(out)
    }

    fn scatter_add(
        &self,
        out: &mut Vec<f32>,
        width: usize,
        rows: &[u32],
        factors: &[f32],
        x: &Vec<f32>,
    ) -> Result<(), Error> {
        for ((&row, factor), x) in rows.iter().zip(factors).zip(x.chunks(width)) {
            let out = &mut out[row as usize * width..][..width];
            out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
        }
        Ok(())
    }

    fn gram(&self, x: &Vec<f32>, width: usize, gram: &mut Vec<f32>) -> Result<(), Error> {
        check("gram", gram.len() == width * width, || format!("{} for {width}", gram.len()))?;
        check("gram", x.len().is_multiple_of(width.max(1)), || format!("{} by {width}", x.len()))?;
        self.simd.run(Gram { x, width, sums: gram });
        Ok(())
    }

    fn moments(&self, x: &Vec<f32>, width: usize, absolute: &mut [f64], squares: &mut [f64]) -> Result<(), Error> {
        for x in x.chunks(width) {
            for ((x, absolute), square) in x.iter().zip(&mut *absolute).zip(&mut *squares) {
                *absolute += f64::from(x.abs());
                *square += f64::from(*x) * f64::from(*x);
            }
        }
        Ok(())
    }

    fn first_not_finite(&self, x: &Vec<f32>) -> Result<Option<usize>, Error> {
        Ok(x.par_iter().position_first(|x| !x.is_finite()))
    }
}

fn activated(gate: f32, up: Option<f32>, activation: Activation) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let activated = match activation {
        Activation::Silu => gate * sigmoid(gate),
        Activation::Gelu => 0.5 * gate * (1.0 + libm::erff(gate * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (gate + 0.044_715 * gate * gate * gate);
            0.5 * gate * (1.0 + inner.tanh())
        }
        Activation::GeluQuick => gate * sigmoid(1.702 * gate),
        Activation::Relu => gate.max(0.0),
        Activation::SquaredRelu => gate.max(0.0) * gate.max(0.0),
        Activation::ClampedSwiglu { alpha, limit } => {
            let gate = gate.min(limit);
            let up = up.unwrap_or(0.0).clamp(-limit, limit);
            return (up + 1.0) * gate * sigmoid(alpha * gate);
        }
    };
    up.map_or(activated, |up| activated * up)
}
