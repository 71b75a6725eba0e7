//! The CPU.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

mod attention;
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
    product::{Gram, Linear},
    rotation::Rotate,
    simd::Chosen,
};
use crate::{Activation, Attention, Columns, Device, Error, Norm, Rotation, Stored};

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

fn check(operation: &'static str, fits: bool, detail: impl FnOnce() -> String) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::Shape { operation, detail: detail() }) }
}

fn check_rows(operation: &'static str, x: &[f32], width: usize) -> Result<(), Error> {
    check(operation, x.len().is_multiple_of(width), || format!("{} by {width}", x.len()))
}

fn check_columns(operation: &'static str, width: usize, columns: Columns) -> Result<(), Error> {
    let end = columns.count.checked_sub(1).map_or(0, |last| columns.first + last * columns.stride + columns.take);
    check(operation, end <= width, || format!("column {end} of {width}"))
}

fn check_named(operation: &'static str, x: &[f32], width: usize, rows: &[u32]) -> Result<(), Error> {
    let end = rows.iter().max().map_or(0, |&last| last as usize + 1);
    check(operation, end * width <= x.len(), || format!("{end} rows of {}", x.len() / width.max(1)))
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
        let row = norm.gain.or(norm.bias).map_or(width, Vec::len);
        check("norm", width > 0 && row > 0 && row.is_multiple_of(width), || format!("{row} by {width}"))?;
        check("norm", x.len().is_multiple_of(row), || format!("{} by {row}", x.len()))?;
        check("norm", norm.bias.is_none_or(|bias| bias.len() == row), || "gain and bias".into())?;
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
        let rows = positions.len();
        let width = x.len() / rows.max(1);
        let end = rotation.first + rotation.dimensions;
        let fits = x.len() == rows * width && rotation.head > 0 && width.is_multiple_of(rotation.head);
        check("rotate", fits && end <= rotation.head, || format!("{} by {rows} by {}", x.len(), rotation.head))?;
        let angles = positions.iter().max().map_or(0, |&last| (last as usize + 1) * (rotation.dimensions / 2));
        let tables = rotation.cosines.len().min(rotation.sines.len());
        check("rotate", angles <= tables, || format!("{tables} angles instead of {angles}"))?;
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
        self.simd.run(Activate { gate, up: up.map(Vec::as_slice), activation });
        Ok(())
    }

    fn add(&self, y: &mut Vec<f32>, factor: f32, x: &Vec<f32>) -> Result<(), Error> {
        check("add", y.len() == x.len(), || format!("{} and {}", y.len(), x.len()))?;
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
        check_rows("columns", x, width)?;
        check_columns("columns", width, columns)?;
        let mut out = vec![0.0; x.len() / width.max(1) * columns.width()];
        if !out.is_empty() {
            layout::columns(x, width, columns, &mut out);
        }
        Ok(out)
    }

    fn place(&self, out: &mut Vec<f32>, width: usize, columns: Columns, x: &Vec<f32>) -> Result<(), Error> {
        check_rows("place", out, width)?;
        check_columns("place", width, columns)?;
        check("place", out.len() / width.max(1) * columns.width() == x.len(), || format!("{}", x.len()))?;
        if !x.is_empty() {
            layout::place(out, width, columns, x);
        }
        Ok(())
    }

    fn gather(&self, x: &Vec<f32>, width: usize, rows: &[u32]) -> Result<Vec<f32>, Error> {
        check_rows("gather", x, width)?;
        check_named("gather", x, width, rows)?;
        let mut out = vec![0.0; rows.len() * width];
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
        check_rows("scatter", out, width)?;
        check_named("scatter", out, width, rows)?;
        let fits = rows.len() == factors.len() && rows.len() * width == x.len();
        check("scatter", fits, || format!("{} for {} rows by {width}", x.len(), rows.len()))?;
        if !x.is_empty() {
            self.simd.run(ScatterAdd { out, width, rows, factors, x });
        }
        Ok(())
    }

    fn gram(&self, x: &Vec<f32>, width: usize, gram: &mut Vec<f32>) -> Result<(), Error> {
        check("gram", gram.len() == width * width, || format!("{} for {width}", gram.len()))?;
        check("gram", x.len().is_multiple_of(width.max(1)), || format!("{} by {width}", x.len()))?;
        self.simd.run(Gram { x, width, sums: gram });
        Ok(())
    }

    fn gram_f64(&self, x: &Vec<f32>, width: usize, gram: &mut [f64]) -> Result<(), Error> {
        Self::gram_f64(self, x, width, gram)
    }

    fn moments(&self, x: &Vec<f32>, width: usize, absolute: &mut [f64], squares: &mut [f64]) -> Result<(), Error> {
        check_rows("moments", x, width)?;
        check("moments", absolute.len() == width && squares.len() == width, || format!("{}", absolute.len()))?;
        if !x.is_empty() {
            self.simd.run(Moments { x, width, absolute, squares });
        }
        Ok(())
    }

    fn first_not_finite(&self, x: &Vec<f32>) -> Result<Option<usize>, Error> {
        Ok(self.simd.run(FirstNotFinite { x }))
    }
}
