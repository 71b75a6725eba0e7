//! Loops compiled for what a machine's CPU has beyond that of every machine.
#![expect(unsafe_code, reason = "what is compiled for an instruction set may only run where the CPU has it")]

use std::sync::OnceLock;

/// An instruction set. Every one gives the same results: compilers neither fuse nor reorder the operations on floats that
/// a loop spells out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructionSet {
    /// What every CPU of the architecture has: SSE2 of x86-64, NEON of 64-bit ARM.
    Baseline,
    /// AVX2 of x86-64, with FMA and F16C.
    Avx2,
    /// AVX-512 of x86-64: F, BW, DQ and VL.
    Avx512,
}

impl InstructionSet {
    /// All of them, whether the machine has them or not.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Whether the machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Those that the machine has, the best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best that the machine has; looked up once.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().unwrap_or(Self::Baseline))
    }

    /// Runs a loop compiled for this instruction set, if the machine has it, or else for every machine.
    #[inline]
    pub fn run<A, B, L: Loop<A, B>>(self, work: L, a: A, b: B) -> L::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has been asked whether it has the instructions.
            Self::Avx2 if self.is_available() => unsafe { avx2(work, a, b) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 if self.is_available() => unsafe { avx512(work, a, b) },
            _ => work.run(a, b),
        }
    }
}

/// A loop over two things that can be compiled for instruction sets.
///
/// That is why it is no closure: [`run`](Self::run), and all that it calls, has to be marked `#[inline(always)]`. And slices
/// that are handed over as arguments are known not to overlap.
pub trait Loop<A, B> {
    /// What comes out of it.
    type Output;

    /// Does it.
    fn run(self, a: A, b: B) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<A, B, L: Loop<A, B>>(work: L, a: A, b: B) -> L::Output {
    work.run(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<A, B, L: Loop<A, B>>(work: L, a: A, b: B) -> L::Output {
    work.run(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scaled(f32);

    impl Loop<&[f32], &mut [f32]> for Scaled {
        type Output = ();

        #[inline(always)]
        fn run(self, numbers: &[f32], out: &mut [f32]) {
            out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number * self.0 + 0.3);
        }
    }

    #[test]
    fn a_loop_gives_the_same_on_every_instruction_set() {
        let numbers: Vec<f32> = (0..1000_u16).map(|n| f32::from(n) * 0.37 - 100.0).collect();
        let expected: Vec<_> = numbers.iter().map(|number| (number * 1.1 + 0.3).to_bits()).collect();
        for set in InstructionSet::ALL {
            let mut out = vec![0.0; numbers.len()];
            set.run(Scaled(1.1), &numbers, &mut out);
            assert_eq!(out.iter().map(|number| number.to_bits()).collect::<Vec<_>>(), expected, "{}", set.name());
        }
        assert!(InstructionSet::best().is_available());
    }
}
