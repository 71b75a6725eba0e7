//! Weights to test kernels with: every distribution that has made a scale search behave differently.
//!
//! Made by integer and exact float operations only, so that every machine gives the same bits and
//! golden files can name an input instead of holding it.
#![allow(dead_code, reason = "several programs include this file, and not all use all of it")]

/// Makes `count` weights of a distribution.
pub(crate) type Make = fn(&mut Random, count: usize) -> Vec<f32>;

/// The distributions, by name.
pub(crate) const DISTRIBUTIONS: [(&str, Make); 26] = [
    ("gauss", |random, count| random.each(count, |random| 0.02 * random.gauss())),
    ("gauss-wide", |random, count| random.each(count, |random| 3.0 * random.gauss())),
    ("cauchy", |random, count| random.each(count, Random::cauchy)),
    ("sparse", |random, count| random.each(count, |random| if random.below(16) == 0 { random.gauss() } else { 0.0 })),
    ("runs", runs),
    ("positive", |random, count| random.each(count, |random| random.gauss().abs() + 0.5)),
    ("negative", |random, count| random.each(count, |random| -0.25 - random.gauss().abs())),
    ("tiny", |random, count| random.each(count, |random| 1e-30 * random.gauss())),
    ("denormal", |random, count| random.each(count, |random| f32::from_bits(random.bits(18) | random.sign()))),
    ("around-all-zero", |random, count| random.each(count, |random| 3e-15 * random.gauss())),
    ("large", |random, count| random.each(count, |random| 1e18 * random.gauss())),
    ("largest", |random, count| random.each(count, |random| 3.4e38 * (2.0 * random.unit() - 1.0))),
    ("four-levels", |random, count| random.each(count, |random| [-0.5, -0.125, 0.125, 0.5][random.below(4)])),
    ("outliers", outliers),
    ("zeros", |_, count| vec![0.0; count]),
    ("signed-zeros", |random, count| random.each(count, |random| f32::from_bits(random.sign()))),
    ("zeros-and-tiny", |random, count| {
        random.each(
            count,
            |random| if random.below(4) == 0 { 1e-8 * random.gauss() } else { f32::from_bits(random.sign()) },
        )
    }),
    ("one-sided-zeros", one_sided_zeros),
    ("ties", ties),
    ("steep", steep),
    ("bf16", |random, count| {
        random.each(count, |random| f32::from_bits((0.02 * random.gauss()).to_bits() & 0xffff_0000))
    }),
    ("f16", |random, count| {
        random.each(count, |random| f32::from_bits((0.02 * random.gauss()).to_bits() & 0xffff_e000))
    }),
    ("scales", scales),
    ("ramp", |random, count| {
        let (start, step) = (random.gauss(), 0.01 * random.gauss());
        let mut next = start;
        random.each(count, |_| {
            next += step;
            next
        })
    }),
    ("any-finite", |random, count| random.each(count, Random::any_finite)),
    ("mixture", mixture),
];

/// Distributions that came after the golden files: [`mixture`] draws from those above, and so do files that name it.
pub(crate) const MORE_DISTRIBUTIONS: [(&str, Make); 3] =
    [("constant", constant), ("sub-blocks", sub_blocks), ("unlike-blocks", unlike_blocks)];

/// Everything that kernels are compared on.
pub(crate) fn distributions() -> impl Iterator<Item = (&'static str, Make)> {
    DISTRIBUTIONS.into_iter().chain(MORE_DISTRIBUTIONS)
}

/// Importances of columns, by name: finite and not negative.
pub(crate) const IMPORTANCES: [(&str, Make); 8] = [
    ("squares", |random, count| random.each(count, |random| random.gauss() * random.gauss().abs()).map_abs()),
    ("ones", |_, count| vec![1.0; count]),
    ("zeros", |_, count| vec![0.0; count]),
    ("zeros-between", |random, count| {
        random.each(count, |random| if random.below(3) == 0 { 0.0 } else { random.unit() })
    }),
    ("outliers", |random, count| outliers(random, count).map_abs()),
    ("scales", |random, count| scales(random, count).map_abs()),
    ("any-finite", |random, count| random.each(count, Random::any_finite).map_abs()),
    ("denormal", |random, count| random.each(count, |random| f32::from_bits(random.bits(18)))),
];

/// Magnitudes in place of numbers.
trait Magnitudes {
    fn map_abs(self) -> Self;
}

impl Magnitudes for Vec<f32> {
    fn map_abs(self) -> Self {
        self.into_iter().map(f32::abs).collect()
    }
}

/// Sub-blocks of one value each, some of them zero: there is nothing to fit.
fn runs(random: &mut Random, count: usize) -> Vec<f32> {
    let (mut left, mut value) = (0, 0.0);
    random.each(count, |random| {
        if left == 0 {
            left = 8 << random.below(4);
            value = if random.below(3) == 0 { 0.0 } else { random.gauss() };
        }
        left -= 1;
        value
    })
}

/// Small weights with a few that are a thousand times as large.
fn outliers(random: &mut Random, count: usize) -> Vec<f32> {
    random.each(count, |random| random.gauss() * if random.below(64) == 0 { 20.0 } else { 0.02 })
}

/// Another power of ten for every 16 weights, from 1e-30 to 1e29: scales that vanish beside others.
fn scales(random: &mut Random, count: usize) -> Vec<f32> {
    const POWERS: [f32; 12] = [1e-30, 1e-25, 1e-20, 1e-15, 1e-10, 1e-6, 1e-3, 1.0, 1e4, 1e10, 1e20, 1e29];
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let power = POWERS[random.below(POWERS.len())];
        out.extend(random.each(16.min(count - out.len()), |random| power * random.gauss()));
    }
    out
}

/// Weights of one sign and zeros of both, for 32 weights at a time: the extreme is a zero.
fn one_sided_zeros(random: &mut Random, count: usize) -> Vec<f32> {
    let mut sign = 0;
    let mut index = 0;
    random.each(count, |random| {
        if index % 32 == 0 {
            sign = random.sign();
        }
        index += 1;
        if random.below(2) == 0 {
            f32::from_bits(random.sign())
        } else {
            f32::from_bits(random.unit().to_bits() | sign)
        }
    })
}

/// Halves and their neighbours, beside an extreme that makes the scale one.
fn ties(random: &mut Random, count: usize) -> Vec<f32> {
    let mut extreme = 0.0;
    let mut index = 0;
    random.each(count, |random| {
        index += 1;
        if index % 32 == 1 {
            extreme = [127.0, -127.0, -8.0, -16.0, 15.0, 31.0][random.below(6)];
            return extreme;
        }
        let half = (random.unit() * 2.0 * extreme).round() / 2.0;
        match random.below(4) {
            0 => half.next_up(),
            1 => half.next_down(),
            _ => half,
        }
    })
}

/// Sixteen weights that fall by powers of two: the longest way for the searches that go step by step.
fn steep(random: &mut Random, count: usize) -> Vec<f32> {
    let mut factor = 1.0;
    let mut index = 0;
    random.each(count, |random| {
        factor = if index % 16 == 0 { 1.0 } else { factor * (0.4 + 0.6 * random.unit()) };
        index += 1;
        factor * (random.unit() - 0.5)
    })
}

/// Pieces of all the others, of any length, scaled and shifted.
fn mixture(random: &mut Random, count: usize) -> Vec<f32> {
    const LENGTHS: [usize; 7] = [1, 3, 7, 16, 32, 64, 256];
    const FACTORS: [f32; 8] = [1e-20, 1e-10, 1e-5, 1e-2, 1.0, 1.0, 1e3, 1e10];
    let mut out = Vec::with_capacity(count + 256);
    while out.len() < count {
        let (_, make) = DISTRIBUTIONS[random.below(DISTRIBUTIONS.len() - 1)];
        let factor = FACTORS[random.below(FACTORS.len())];
        let shift = if random.below(4) == 0 { factor * random.gauss() } else { 0.0 };
        let length = LENGTHS[random.below(LENGTHS.len())];
        let piece = make(random, length);
        out.extend(piece.iter().map(|x| x * factor + shift).map(|x| if x.is_finite() { x } else { 1.0 }));
    }
    out.truncate(count);
    out
}

/// Whole super-blocks of one value, which may be zero, tiny or large.
fn constant(random: &mut Random, count: usize) -> Vec<f32> {
    const FACTORS: [f32; 7] = [0.0, 1e-40, 1e-30, 0.02, 0.02, 1.0, 1e18];
    let (mut left, mut value) = (0, 0.0);
    random.each(count, |random| {
        if left == 0 {
            left = 256;
            value = FACTORS[random.below(FACTORS.len())] * random.gauss();
        }
        left -= 1;
        value
    })
}

/// Another distribution for every 16 weights: what lies side by side ends its search at different steps.
fn sub_blocks(random: &mut Random, count: usize) -> Vec<f32> {
    pieces(random, count, 16)
}

/// Another distribution for every 256 weights: blocks that leave early lie beside some that do not.
fn unlike_blocks(random: &mut Random, count: usize) -> Vec<f32> {
    pieces(random, count, 256)
}

/// Pieces of a length of the distributions, as they are.
fn pieces(random: &mut Random, count: usize, length: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(count + length);
    while out.len() < count {
        let (_, make) = DISTRIBUTIONS[random.below(DISTRIBUTIONS.len())];
        out.extend(make(random, length));
    }
    out.truncate(count);
    out
}

/// A generator of 64 bits at a time (splitmix64), the same on every machine and in every version.
pub(crate) struct Random(u64);

impl Random {
    /// A sequence for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The highest `count` bits of the next number.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    pub(crate) fn bits(&mut self, count: u32) -> u32 {
        (self.next() >> (64 - count)) as u32
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.bits(31) as usize % limit
    }

    /// The sign bit of a float, or nothing.
    pub(crate) fn sign(&mut self) -> u32 {
        self.bits(1) << 31
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    pub(crate) fn unit(&mut self) -> f32 {
        self.bits(24) as f32 / 16_777_216.0
    }

    /// About normal: twelve uniform numbers, which have a variance of one together.
    pub(crate) fn gauss(&mut self) -> f32 {
        (0..12).fold(-6.0, |sum, _| sum + self.unit())
    }

    /// Heavy tails: the quotient of two normal numbers.
    pub(crate) fn cauchy(&mut self) -> f32 {
        let (above, below) = (self.gauss(), self.gauss());
        if below == 0.0 { above } else { above / below }
    }

    /// Any bits that are a finite number: mostly magnitudes that no model has.
    pub(crate) fn any_finite(&mut self) -> f32 {
        loop {
            let value = f32::from_bits(self.bits(32));
            if value.is_finite() {
                return value;
            }
        }
    }

    /// Calls for `count` weights.
    pub(crate) fn each(&mut self, count: usize, mut make: impl FnMut(&mut Self) -> f32) -> Vec<f32> {
        (0..count).map(|_| make(self)).collect()
    }
}
