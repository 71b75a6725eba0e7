//! Which predictions are scored.

/// Which predictions of a window are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// All.
    All,
    /// Those of the second half: every scored token has at least half a window before it, as
    /// llama.cpp's `llama-perplexity` has it.
    SecondHalf,
}

impl Score {
    /// The positions whose next token is scored, in a window of a length.
    #[must_use]
    pub fn positions(self, length: usize) -> std::ops::Range<usize> {
        let last = length.saturating_sub(1);
        match self {
            Self::All => 0..last,
            Self::SecondHalf => (length / 2).min(last)..last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_that_of_llama_perplexity() {
        // With 512 tokens it scores those from the 257th to the 511th prediction: 255 of them.
        assert_eq!(Score::SecondHalf.positions(512), 256..511);
        assert_eq!(Score::All.positions(512), 0..511);
        assert_eq!(
            Score::All.positions(1).len() + Score::SecondHalf.positions(1).len() + Score::All.positions(0).len(),
            0
        );
    }
}
