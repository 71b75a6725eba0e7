//! Kernels on instruction sets: which lanes each has, and how blocks are dealt out to them.
//!
//! A group of blocks is quantised at once, one in each lane; the last group is filled up with zeros. It knows nothing of
//! what a kernel does.

use std::marker::PhantomData;

use qhost_plugin_api::sdk::{InstructionSet, Loop};

#[cfg(not(target_arch = "x86_64"))]
use super::lanes::Array;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, Sse2};
use super::lanes::{Lanes, MOST, Twice};

/// What quantises blocks of one type, one in each lane.
pub(super) trait Kernel {
    /// Weights in a block.
    const ELEMENTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether the weights of the whole row count, where importances are given.
    const BY_ROW: bool = false;

    /// Quantises as many blocks as there are lanes; with importances if some are given.
    fn blocks<F: Lanes>(x: &[f32], weighing: Option<&Weighing<'_>>, out: &mut [u8]);
}

/// What the importance of weights comes from, for the blocks of a group.
pub(super) struct Weighing<'a> {
    /// The importance of the column of each weight.
    pub(super) columns: &'a [f32],
    /// For each block the mean square of its whole row, if the kernel asks for it.
    pub(super) spreads: &'a [f32],
}

/// Quantises whole blocks; whole rows of them if the importance of each column of a row is given.
///
/// # Panics
/// If the machine does not have the instruction set.
pub(super) fn run<K: Kernel>(set: InstructionSet, x: &[f32], columns: Option<&[f32]>, out: &mut [u8]) {
    // The lanes of an instruction set must not be used without it.
    assert!(set.is_available(), "this machine has no {}", set.name());
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => run_in::<K, Twice<Avx512>>(set, x, columns, out),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => run_in::<K, Twice<Avx2>>(set, x, columns, out),
        _ => run_in::<K, Baseline>(set, x, columns, out),
    }
}

/// The lanes of what every CPU has.
#[cfg(target_arch = "x86_64")]
type Baseline = Twice<Sse2>;
#[cfg(not(target_arch = "x86_64"))]
type Baseline = Twice<Array<4>>;

fn run_in<K: Kernel, F: Lanes>(set: InstructionSet, x: &[f32], columns: Option<&[f32]>, out: &mut [u8]) {
    match columns {
        None => set.run(Plain(PhantomData::<(K, F)>), x, out),
        Some(columns) => set.run(Weighted(columns, PhantomData::<(K, F)>), x, out),
    }
}

/// Blocks on their own.
struct Plain<K, F>(PhantomData<(K, F)>);

/// Rows of blocks, and the importance of the columns of a row.
struct Weighted<'a, K, F>(&'a [f32], PhantomData<(K, F)>);

impl<K: Kernel, F: Lanes> Loop<&[f32], &mut [u8]> for Plain<K, F> {
    type Output = ();

    #[inline(always)]
    fn run(self, x: &[f32], out: &mut [u8]) {
        plain::<K, F>(x, out);
    }
}

impl<K: Kernel, F: Lanes> Loop<&[f32], &mut [u8]> for Weighted<'_, K, F> {
    type Output = ();

    #[inline(always)]
    fn run(self, x: &[f32], out: &mut [u8]) {
        weighted::<K, F>(x, self.0, out);
    }
}

#[inline(always)]
fn plain<K: Kernel, F: Lanes>(x: &[f32], out: &mut [u8]) {
    let mut last = Last::default();
    for (x, out) in x.chunks(F::COUNT * K::ELEMENTS).zip(out.chunks_mut(F::COUNT * K::BYTES)) {
        let (from, to) = last.filled_up::<K, F>(x, out);
        K::blocks::<F>(from, None, to);
        last.take(out);
    }
}

#[inline(always)]
fn weighted<K: Kernel, F: Lanes>(x: &[f32], columns: &[f32], out: &mut [u8]) {
    let elements = F::COUNT * K::ELEMENTS;
    let mut of_rows = Vec::new();
    if K::BY_ROW {
        mean_squares::<F>(x, columns.len(), &mut of_rows);
    }
    let mut spreads = [0.0; MOST];
    // What a group takes of the importances may go on with those of the next row, again and again.
    let repeated = if columns.len().is_multiple_of(elements) {
        Vec::new()
    } else {
        let mut repeated = columns.repeat(elements.div_ceil(columns.len()) + 1);
        repeated.truncate(columns.len() + elements);
        repeated
    };
    let repeated = if repeated.is_empty() { columns } else { &repeated };
    let mut last = Last::default();
    for (group, (x, out)) in x.chunks(elements).zip(out.chunks_mut(F::COUNT * K::BYTES)).enumerate() {
        if K::BY_ROW {
            for (lane, spread) in spreads[..F::COUNT].iter_mut().enumerate() {
                let row = (group * F::COUNT + lane) * K::ELEMENTS / columns.len();
                *spread = of_rows.get(row).copied().unwrap_or(0.0);
            }
        }
        let first = group * elements % columns.len();
        let weighing = Weighing { columns: &repeated[first..first + elements], spreads: &spreads[..F::COUNT] };
        let (from, to) = last.filled_up::<K, F>(x, out);
        K::blocks::<F>(from, Some(&weighing), to);
        last.take(out);
    }
}

/// The last group where it has fewer blocks than there are lanes: filled up with zeros, and what is made of it.
#[derive(Default)]
struct Last {
    x: Vec<f32>,
    out: Vec<u8>,
}

impl Last {
    /// A group as it is, or filled up.
    #[inline(always)]
    fn filled_up<'a, K: Kernel, F: Lanes>(&'a mut self, x: &'a [f32], out: &'a mut [u8]) -> (&'a [f32], &'a mut [u8]) {
        if x.len() == F::COUNT * K::ELEMENTS {
            return (x, out);
        }
        self.x.extend_from_slice(x);
        self.x.resize(F::COUNT * K::ELEMENTS, 0.0);
        self.out.resize(F::COUNT * K::BYTES, 0);
        (&self.x, &mut self.out)
    }

    /// Hands over what was made of a group that had to be filled up.
    #[inline(always)]
    fn take(&self, out: &mut [u8]) {
        if !self.out.is_empty() {
            out.copy_from_slice(&self.out[..out.len()]);
        }
    }
}

/// The mean square of each row, each summed up from its first weight to its last.
#[inline(always)]
fn mean_squares<F: Lanes>(x: &[f32], row: usize, means: &mut Vec<f32>) {
    #[expect(clippy::cast_precision_loss, reason = "the reference rounds the length of a row, too")]
    let length = row as f32;
    let mut of_lanes = [0.0; MOST];
    let groups = x.chunks_exact(F::COUNT * row);
    let rest = groups.remainder();
    for rows in groups {
        let mut sum = F::all(0.0);
        for first in (0..row).step_by(4) {
            for x in F::columns(&rows[first..], row) {
                sum = sum + x * x;
            }
        }
        (sum / F::all(length)).store(&mut of_lanes);
        means.extend(&of_lanes[..F::COUNT]);
    }
    // Of the rows that are left eight at a time, so that none waits for its own last sum alone.
    for rows in rest.chunks(8 * row) {
        let mut sums = [0.0; 8];
        for column in 0..row {
            for (sum, row) in sums.iter_mut().zip(rows.chunks_exact(row)) {
                *sum += row[column] * row[column];
            }
        }
        means.extend(sums.iter().zip(rows.chunks_exact(row)).map(|(sum, _)| sum / length));
    }
}
