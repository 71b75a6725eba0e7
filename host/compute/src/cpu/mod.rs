//! The CPU.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

mod attention;
mod buffer;
mod dense;
mod elementwise;
pub(crate) mod factor;
mod layout;
pub(crate) mod math;
mod moments;
mod norm;
mod pack;
mod product;
mod rotation;
mod scratch;
pub(crate) mod simd;
mod tiles;

pub use self::simd::InstructionSet;
use self::{
    attention::Softmax,
    elementwise::{Activate, Add, FirstNotFinite, Scale, SoftCap},
    layout::ScatterAdd,
    moments::Moments,
    norm::Normalize,
    product::{Cross, Gram, Linear},
    rotation::Rotate,
    simd::Chosen,
};
use crate::{Activation, Attention, Columns, Device, Error, Norm, Rotation, Stored, check};

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
        check::gram(x.len(), width, gram.len())?;
        self.simd.run(Gram { x, width, sums: gram });
        Ok(())
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Cpu {
    type Buffer = Vec<f32>;
    type Matrix<'a> = Stored<'a>;

    fn upload(&self, numbers: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(numbers.to_vec())
    }

    fn zeros(&self, length: usize) -> Result<Vec<f32>, Error> {
        Ok(buffer::zeros(length))
    }

    fn length(&self, buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn download(&self, buffer: &Vec<f32>, out: &mut [f32]) -> Result<(), Error> {
        check::download(buffer.len(), out.len())?;
        out.copy_from_slice(buffer);
        Ok(())
    }

    fn download_all(&self, buffer: Vec<f32>) -> Result<Vec<f32>, Error> {
        Ok(buffer)
    }

    fn matrix<'a>(&self, stored: Stored<'a>) -> Result<Stored<'a>, Error> {
        check::matrix(&stored)?;
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
        check::linear(x.len(), rows, (inputs, outputs), bias.map(Vec::len))?;
        let mut out = buffer::zeros(rows * outputs);
        if inputs == 0 || outputs == 0 {
            return Ok(out);
        }
        self.simd.run(Linear { x, weights: *weights, bias: bias.map(Vec::as_slice), out: &mut out });
        Ok(out)
    }

    fn norm(&self, x: &Vec<f32>, norm: &Norm<'_, Vec<f32>>) -> Result<Vec<f32>, Error> {
        let width = norm.width;
        let row = check::norm(x.len(), width, (norm.gain.map(Vec::len), norm.bias.map(Vec::len)))?;
        let mut out = x.clone();
        self.simd.run(Normalize {
            out: &mut out,
            kind: norm.kind,
            width,
            epsilon: norm.epsilon,
            gain: norm.gain.map_or(&[], Vec::as_slice),
            one: if norm.plus_one { 1.0 } else { 0.0 },
            bias: norm.bias.map_or(&[], Vec::as_slice),
            row,
        });
        Ok(out)
    }

    fn rotate(&self, x: &mut Vec<f32>, positions: &[u32], rotation: &Rotation<'_, Vec<f32>>) -> Result<(), Error> {
        let tables = rotation.cosines.len().min(rotation.sines.len());
        let end = rotation.first + rotation.dimensions;
        let angles = (rotation.dimensions / 2, tables);
        let width = check::rotate(x.len(), positions, rotation.head, end, angles)?;
        if width > 0 {
            self.simd.run(Rotate { x, positions, rotation, width });
        }
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
        let rows = check::attention((q.len(), k.len(), v.len()), lengths, shape, sinks.map(Vec::len))?;
        let &Attention { heads, value, .. } = shape;
        let mut out = buffer::zeros(rows * heads * value);
        let sinks = sinks.map(Vec::as_slice);
        self.simd.run(Softmax { q, k, v, lengths, shape, sinks, out: &mut out });
        Ok(out)
    }

    fn activate(&self, gate: &mut Vec<f32>, up: Option<&Vec<f32>>, activation: Activation) -> Result<(), Error> {
        check::activate(gate.len(), up.map(Vec::len))?;
        self.simd.run(Activate { gate, up: up.map(Vec::as_slice), activation });
        Ok(())
    }

    fn add(&self, y: &mut Vec<f32>, factor: f32, x: &Vec<f32>) -> Result<(), Error> {
        check::add(y.len(), x.len())?;
        self.simd.run(Add { y, factor, x });
        Ok(())
    }

    fn scale(&self, x: &mut Vec<f32>, factor: f32) -> Result<(), Error> {
        self.simd.run(Scale { x, factor });
        Ok(())
    }

    fn soft_cap(&self, x: &mut Vec<f32>, cap: f32) -> Result<(), Error> {
        self.simd.run(SoftCap { x, cap });
        Ok(())
    }

    fn columns(&self, x: &Vec<f32>, width: usize, columns: Columns) -> Result<Vec<f32>, Error> {
        check::rows("columns", x.len(), width)?;
        check::columns("columns", width, columns)?;
        let mut out = buffer::zeros(x.len() / width.max(1) * columns.width());
        if !out.is_empty() {
            layout::columns(x, width, columns, &mut out);
        }
        Ok(out)
    }

    fn place(&self, out: &mut Vec<f32>, width: usize, columns: Columns, x: &Vec<f32>) -> Result<(), Error> {
        check::place(out.len(), width, columns, x.len())?;
        if !x.is_empty() {
            layout::place(out, width, columns, x);
        }
        Ok(())
    }

    fn gather(&self, x: &Vec<f32>, width: usize, rows: &[u32]) -> Result<Vec<f32>, Error> {
        check::rows("gather", x.len(), width)?;
        check::named("gather", x.len(), width, rows)?;
        let mut out = buffer::zeros(rows.len() * width);
        if !out.is_empty() {
            layout::gather(x, width, rows, &mut out);
        }
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
        check::scatter(out.len(), width, (rows, factors.len()), x.len())?;
        if !x.is_empty() {
            self.simd.run(ScatterAdd { out, width, rows, factors, x });
        }
        Ok(())
    }

    fn gram(&self, x: &Vec<f32>, width: usize, gram: &mut Vec<f32>) -> Result<(), Error> {
        check::gram(x.len(), width, gram.len())?;
        self.simd.run(Gram { x, width, sums: gram });
        Ok(())
    }

    fn gram_f64(&self, x: &Vec<f32>, width: usize, gram: &mut [f64]) -> Result<(), Error> {
        Self::gram_f64(self, x, width, gram)
    }

    fn cross(
        &self,
        a: &Vec<f32>,
        b: &Vec<f32>,
        (height, width): (usize, usize),
        sum: &mut Vec<f32>,
    ) -> Result<(), Error> {
        check::cross((a.len(), b.len()), (height, width), sum.len())?;
        if !sum.is_empty() {
            self.simd.run(Cross { a, height, b, width, sums: sum });
        }
        Ok(())
    }

    fn moments(&self, x: &Vec<f32>, width: usize, absolute: &mut [f64], squares: &mut [f64]) -> Result<(), Error> {
        check::moments(x.len(), width, (absolute.len(), squares.len()))?;
        if !x.is_empty() {
            self.simd.run(Moments { x, width, absolute, squares });
        }
        Ok(())
    }

    fn first_not_finite(&self, x: &Vec<f32>) -> Result<Option<usize>, Error> {
        Ok(self.simd.run(FirstNotFinite { x }))
    }
}
