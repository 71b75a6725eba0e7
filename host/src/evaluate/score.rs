//! Which predictions are scored, and the loss of each.

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSlice;

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

/// The negative logarithms of the probabilities of the tokens that came, in nats.
pub(super) fn losses(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Vec<f64> {
    let rows = logits.par_chunks_exact(vocabulary).zip(targets.par_iter());
    rows.map(|(logits, &target)| {
        log_sum_of_exponentials(logits) - logits.get(target as usize).map_or(f64::NEG_INFINITY, |l| f64::from(*l))
    })
    .collect()
}

/// `ln Σ exp(x)`.
pub(super) fn log_sum_of_exponentials(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - most).exp())).sum();
    f64::from(most) + sum.ln()
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

    #[test]
    fn a_loss_is_the_negative_logarithm_of_the_probability() {
        let losses = losses(&[0.0, 0.0, 0.0, 0.0, 1000.0, 0.0, 0.0, 0.0], 4, &[2, 0]);
        assert!((losses[0] - 4.0_f64.ln()).abs() < 1e-6 && losses[1].abs() < 1e-9);
    }
}
