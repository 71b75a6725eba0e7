//! Numbers that are the same for the same seed, on every machine.

/// Steele, Lea and Flood's `SplitMix64` (OOPSLA 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`, which is not 0: the upper half of a product (Lemire 2019), drawn again where it would
    /// favour some.
    fn below(&mut self, count: usize) -> usize {
        let count = count as u128;
        let favoured = (1u128 << 64) % count;
        loop {
            let product = u128::from(self.next()) * count;
            if product & u128::from(u64::MAX) >= favoured {
                // Below a usize, by the shift.
                return usize::try_from(product >> 64).unwrap_or(0);
            }
        }
    }

    /// Brings items into a random order (Fisher and Yates, from the last to the first).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    /// The numbers are those of the generator's published code for the seed 1234567.
    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = Random::new(1_234_567);
        let numbers: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn an_order_has_everything_once_and_depends_on_the_seed() {
        let order = |seed| {
            let mut items: Vec<usize> = (0..100).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..100));
        assert_eq!(order(0), order(0));
        assert_ne!(order(0), order(1));
    }
}
