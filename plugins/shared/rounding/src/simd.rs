//! The instructions that are computed with, and the one kernel that is written in them.
//!
//! Everything else is loops over [`Lanes`], which a compiler turns into vectors of whatever it may use.
#![expect(unsafe_code, reason = "vector instructions that the machine may lack, on pointers")]

/// Rows that are rounded at once, one in each lane.
pub const TILE: usize = 32;

/// Columns of a strip of a panel.
pub(crate) const STRIP: usize = 8;

/// One number for each row of a tile.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; TILE]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; TILE]);

    /// A number for each lane.
    #[inline(always)]
    pub(crate) fn of(number: impl Fn(usize) -> f32) -> Self {
        let mut lanes = Self::ZERO;
        for (lane, out) in lanes.0.iter_mut().enumerate() {
            *out = number(lane);
        }
        lanes
    }
}

/// A set of instructions, proved to be there.
pub(crate) trait Simd: Copy {
    /// `a · b + c`, in one rounding where the instructions have that.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;

    /// The nearest whole number, halves to the even one. The number is small.
    fn round(x: f32) -> f32;

    /// Adds to each of `STRIP` sums, which are columns, the products of `left` and a strip of a panel.
    fn multiply(self, left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]);

    /// Does something that is compiled for these instructions.
    fn perform<J: Job>(self, job: J) -> J::Output;
}

/// Something to do with whatever instructions there are; `run` has to be inlined, to be compiled for them.
pub(crate) trait Job {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Does it with the best instructions of this machine.
pub(crate) fn run<J: Job>(job: J) -> J::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = x86::Avx512::detect() {
            return simd.perform(job);
        }
        if let Some(simd) = x86::Avx2::detect() {
            return simd.perform(job);
        }
    }
    Portable.perform(job)
}

/// What every machine has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

/// Rounds numbers below 2^22 to whole ones without an instruction for it: the bits below 1 fall off.
const MAGIC: f32 = 12_582_912.0;

impl Simd for Portable {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn round(x: f32) -> f32 {
        (x + MAGIC) - MAGIC
    }

    #[inline(always)]
    fn multiply(self, left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]) {
        const LANES: usize = 8;
        for first in (0..TILE).step_by(LANES) {
            let mut partial = [[0.0_f32; LANES]; STRIP];
            for (left, columns) in left.iter().zip(strip) {
                let left = &left.0[first..first + LANES];
                for (partial, column) in partial.iter_mut().zip(columns) {
                    for (partial, left) in partial.iter_mut().zip(left) {
                        *partial += *left * *column;
                    }
                }
            }
            for (sums, partial) in sums.iter_mut().zip(&partial) {
                for (sum, partial) in sums.0[first..first + LANES].iter_mut().zip(partial) {
                    *sum += *partial;
                }
            }
        }
    }

    fn perform<J: Job>(self, job: J) -> J::Output {
        job.run(self)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps, _mm256_setzero_ps, _mm256_store_ps,
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
    };

    use super::{Job, Lanes, MAGIC, STRIP, Simd, TILE};

    macro_rules! shared {
        ($features:literal) => {
            #[inline(always)]
            fn mul_add(a: f32, b: f32, c: f32) -> f32 {
                a.mul_add(b, c)
            }

            #[inline(always)]
            fn round(x: f32) -> f32 {
                (x + MAGIC) - MAGIC
            }

            fn perform<J: Job>(self, job: J) -> J::Output {
                #[target_feature(enable = $features)]
                fn perform<S: Simd, J: Job>(simd: S, job: J) -> J::Output {
                    job.run(simd)
                }
                // SAFETY: `self` proves the instructions.
                unsafe { perform(self, job) }
            }
        };
    }

    /// Proves AVX-512.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Avx512(());

    impl Avx512 {
        pub(super) fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma");
            has.then_some(Self(()))
        }
    }

    impl Simd for Avx512 {
        shared!("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");

        #[inline(always)]
        fn multiply(self, left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]) {
            // SAFETY: `self` proves the instructions.
            unsafe { multiply_512(left, strip, sums) }
        }
    }

    /// Proves AVX2 with FMA.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Avx2(());

    impl Avx2 {
        pub(super) fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            has.then_some(Self(()))
        }
    }

    impl Simd for Avx2 {
        shared!("avx2,fma");

        #[inline(always)]
        fn multiply(self, left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]) {
            // SAFETY: `self` proves the instructions.
            unsafe { multiply_256(left, strip, sums) }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn multiply_512(left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]) {
        let mut partial = [[_mm512_setzero_ps(); 2]; STRIP];
        for (left, columns) in left.iter().zip(strip) {
            // SAFETY: a `Lanes` is aligned, and has two vectors.
            let left = unsafe { [_mm512_load_ps(left.0.as_ptr()), _mm512_load_ps(left.0.as_ptr().add(16))] };
            for (partial, column) in partial.iter_mut().zip(columns) {
                let column = _mm512_set1_ps(*column);
                partial[0] = _mm512_fmadd_ps(left[0], column, partial[0]);
                partial[1] = _mm512_fmadd_ps(left[1], column, partial[1]);
            }
        }
        for (sums, partial) in sums.iter_mut().zip(partial) {
            for (half, partial) in partial.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let sum = sums.0.as_mut_ptr().add(16 * half);
                    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), partial));
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn multiply_256(left: &[Lanes], strip: &[[f32; STRIP]], sums: &mut [Lanes; STRIP]) {
        for first in (0..TILE).step_by(8) {
            let mut partial = [_mm256_setzero_ps(); STRIP];
            for (left, columns) in left.iter().zip(strip) {
                // SAFETY: a `Lanes` is aligned, and has four vectors.
                let left = unsafe { _mm256_load_ps(left.0.as_ptr().add(first)) };
                for (partial, column) in partial.iter_mut().zip(columns) {
                    *partial = _mm256_fmadd_ps(left, _mm256_broadcast_ss(column), *partial);
                }
            }
            for (sums, partial) in sums.iter_mut().zip(partial) {
                // SAFETY: as above.
                unsafe {
                    let sum = sums.0.as_mut_ptr().add(first);
                    _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), partial));
                }
            }
        }
    }
}
