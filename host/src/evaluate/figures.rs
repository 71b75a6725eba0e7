//! The figures of a model alone.

/// How a model predicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Predictions that were scored.
    pub tokens: usize,
    /// Mean negative log-likelihood, in nats.
    pub mean_nll: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// `exp(mean_nll)`.
    pub perplexity: f64,
}

impl Figures {
    pub(super) fn of(losses: &[f64]) -> Self {
        let Moments { mean, standard_error, count } = Moments::of(losses.iter().copied());
        Self { tokens: count, mean_nll: mean, standard_error, perplexity: mean.exp() }
    }

    /// The standard error of the perplexity, to first order.
    #[must_use]
    pub fn perplexity_error(&self) -> f64 {
        self.perplexity * self.standard_error
    }
}

/// A mean, and how far it may be off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Numbers that it is the mean of.
    pub count: usize,
    /// The mean.
    pub mean: f64,
    /// Its standard error, as if the numbers were independent.
    pub standard_error: f64,
}

impl Moments {
    /// Of some numbers.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
    pub fn of(numbers: impl Iterator<Item = f64> + Clone) -> Self {
        let count = numbers.clone().count();
        let mean = numbers.clone().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = numbers.map(|number| (number - mean).powi(2)).sum();
        let standard_error = if count > 1 { (squares / (count - 1) as f64 / count as f64).sqrt() } else { 0.0 };
        Self { count, mean, standard_error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let figures = Figures::of(&[1.0, 2.0, 3.0]);
        assert_eq!(figures.tokens, 3);
        assert!((figures.mean_nll - 2.0).abs() < 1e-12 && (figures.perplexity - 2.0_f64.exp()).abs() < 1e-9);
        // The deviation is 1, of three numbers.
        assert!((figures.standard_error - 1.0 / 3.0_f64.sqrt()).abs() < 1e-12);
    }
}
