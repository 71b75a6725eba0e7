//! How a module is quantised.

use crate::group_name;

/// How a module is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The width of a code.
    pub bits: u32,
    /// Inputs that share a scale; all of a row if absent.
    pub group_size: Option<u64>,
    /// Whether the zero-point is in the middle of the codes.
    pub symmetric: bool,
    /// Whether columns are rounded in the order of their importance whatever group they are in, so that groups
    /// are no neighbours any more.
    pub act_order: bool,
}

impl Settings {
    /// Those of a module about which nothing was decided yet.
    pub(crate) const UNDECIDED: Self = Self { bits: 4, group_size: None, symmetric: true, act_order: false };

    /// The group size as config files have it: −1 for a whole row.
    #[must_use]
    pub fn group_size_key(self) -> i64 {
        self.group_size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1)
    }

    /// The largest code.
    #[must_use]
    pub fn largest_code(self) -> u8 {
        u8::MAX >> (8 - self.bits.clamp(1, 8))
    }

    /// How the codes are stored, in a word, as readers tell it: `4bit-g128`, `3bit-channel`.
    #[must_use]
    pub fn encoding(self) -> String {
        format!("{}bit-{}", self.bits, group_name(self.group_size))
    }
}
