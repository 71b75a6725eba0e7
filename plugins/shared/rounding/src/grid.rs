//! The numbers that a code of a group can stand for.

/// Codes of some bits, with or without a zero of each group's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    bits: u8,
    symmetric: bool,
}

impl Grid {
    /// Codes of `bits` bits, from 2 to 8; symmetric ones have their zero in the middle, at `2^(bits−1)`.
    ///
    /// None for other widths.
    #[must_use]
    pub fn new(bits: u8, symmetric: bool) -> Option<Self> {
        (2..=8).contains(&bits).then_some(Self { bits, symmetric })
    }

    /// The width of a code.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether the zero is the same for all groups.
    #[must_use]
    pub fn symmetric(self) -> bool {
        self.symmetric
    }

    /// The largest code.
    #[must_use]
    pub fn largest(self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }

    /// The zero of a symmetric group.
    #[must_use]
    pub fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }
}
