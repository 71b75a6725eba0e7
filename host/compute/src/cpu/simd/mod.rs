//! Instruction sets: what differs between them, and which one the machine has.
//!
//! A value of a set's type proves that the machine has it. The sets that fuse multiplication and addition
//! compute the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use neon::Neon;
use portable::Portable;

use crate::Dtype;

/// What a kernel needs of an instruction set.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Rows of the tile that [`Simd::multiply`] computes.
    const ROWS: usize;
    /// Columns of that tile, a multiple of 16.
    const COLUMNS: usize;
    /// Whether multiplication and addition round once.
    const FUSED: bool;

    /// `c[i][j] += Σ a[k][i] · b[k][j]` for `i < rows`, in the order of `k`.
    ///
    /// `a` is `[depth, ROWS]`, `b` is `[depth, COLUMNS]`, rows of `c` are `stride` apart.
    fn multiply(self, a: &[f32], b: &[f32], c: &mut [f32], stride: usize, rows: usize);

    /// Likewise with `f64`, on tiles of half as many columns.
    fn multiply_wide(self, a: &[f64], b: &[f64], c: &mut [f64], stride: usize, rows: usize);

    /// `out[k · stride + i] = rows[i][k]` for the up to 16 rows of `rows`, and 0 for `i` up to `lanes`.
    fn interleave(self, rows: Rows<'_>, lanes: usize, out: &mut [f32], stride: usize);

    /// Asks for the lines of the cache that hold `numbers`, which will be written soon.
    fn fetch<T>(self, numbers: *const T, count: usize);

    /// Runs a loop compiled for the instruction set.
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R;

    /// `a · b + c`.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Rows of stored numbers, `pitch` bytes apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) dtype: Dtype,
    pub(crate) pitch: usize,
    pub(crate) count: usize,
    /// Numbers taken of each row.
    pub(crate) depth: usize,
    /// How many bytes ahead is what will be read next.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 is told to fetch"))]
    pub(crate) ahead: usize,
}

impl Rows<'_> {
    /// Whether all its numbers are within its bytes.
    fn fits(&self) -> bool {
        self.count == 0 || (self.count - 1) * self.pitch + self.depth * self.dtype.bytes() <= self.bytes.len()
    }
}

/// What runs on an instruction set.
pub(crate) trait Job {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that arithmetic can be compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Neon of aarch64.
    Neon,
    /// What every machine has.
    Portable,
}

impl InstructionSet {
    /// The sets that this machine has, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable]
            .into_iter()
            .filter(|&set| Chosen::new(set).is_some())
            .collect()
    }
}

/// An instruction set that the machine has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Chosen {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable(Portable),
}

impl Chosen {
    pub(crate) fn new(set: InstructionSet) -> Option<Self> {
        match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => Neon::detect().map(Self::Neon),
            InstructionSet::Portable => Some(Self::Portable(Portable)),
            _ => None,
        }
    }

    pub(crate) fn best() -> Self {
        InstructionSet::available().into_iter().find_map(Self::new).unwrap_or(Self::Portable(Portable))
    }

    pub(crate) fn set(self) -> InstructionSet {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => InstructionSet::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => InstructionSet::Avx2,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => InstructionSet::Neon,
            Self::Portable(_) => InstructionSet::Portable,
        }
    }

    pub(crate) fn run<J: Job>(self, job: J) -> J::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => job.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => job.run(simd),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => job.run(simd),
            Self::Portable(simd) => job.run(simd),
        }
    }
}

/// Checks the operands of [`Simd::multiply`] with tiles of that many rows and columns; gives the depth.
#[inline]
fn check_tile<T>((height, width): (usize, usize), a: &[T], b: &[T], c: &[T], stride: usize, rows: usize) -> usize {
    let depth = a.len() / height;
    assert!(a.len() == depth * height && b.len() == depth * width, "panels of one depth");
    assert!((1..=height).contains(&rows) && c.len() >= (rows - 1) * stride + width, "a tile within its matrix");
    depth
}

/// Checks the operands of [`Simd::interleave`].
#[inline]
fn check_interleave(rows: &Rows<'_>, lanes: usize, out: &[f32], stride: usize) {
    assert!(rows.fits() && rows.count <= lanes && lanes <= 16, "rows within their bytes");
    assert!(rows.depth == 0 || (rows.depth - 1) * stride + lanes <= out.len(), "lanes within their panel");
}
