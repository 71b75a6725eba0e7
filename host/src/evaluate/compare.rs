//! How far a model is from the one that it was made from.

use qhost_compute::Cpu;

use super::figures::{Figures, Moments};
use crate::calibrate::{Batch, Error, HiddenStates};

/// How a model compares with its original.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// The original's own figures.
    pub original: Figures,
    /// Its losses, of the same predictions.
    pub losses: Vec<f64>,
    /// The perplexity minus that of the original.
    pub perplexity_difference: f64,
    /// Its standard error, of the pairs of losses.
    pub perplexity_difference_error: f64,
    /// Mean of `KL(original ‖ model)` over the predictions, in nats; none if the vocabularies differ.
    pub divergence: Option<Divergence>,
    /// After every layer, how far the hidden states are apart; empty if the models have other shapes.
    pub layers: Vec<LayerError>,
}

/// How far the predicted distributions are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Mean of `KL(original ‖ model)`, in nats.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// The median.
    pub median: f64,
    /// What 99 of 100 predictions do not pass.
    pub p99: f64,
    /// The greatest.
    pub greatest: f64,
    /// The share of predictions whose most probable token is the same.
    pub top1_agreement: f64,
    /// All of them, in order, for plots.
    pub all: Vec<f32>,
}

/// How far hidden states are apart after a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerError {
    /// Root mean square of the difference by that of the original.
    pub relative_rms: f64,
    /// Cosine of the angle between them, all numbers together.
    pub cosine: f64,
}

/// Holds states against those of the original.
pub(super) fn layer_error(states: &HiddenStates, original: &HiddenStates) -> Result<LayerError, Error> {
    let (mut difference, mut square, mut other, mut product) = (0.0, 0.0, 0.0, 0.0);
    for batch in Batch::cut(states.lengths()) {
        for (x, y) in states.read(&batch)?.iter().zip(&*original.read(&batch)?) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            difference += (x - y).powi(2);
            square += x * x;
            other += y * y;
            product += x * y;
        }
    }
    let by = |number: f64, divisor: f64| if divisor > 0.0 { number / divisor } else { 0.0 };
    Ok(LayerError { relative_rms: by(difference, other).sqrt(), cosine: by(product, (square * other).sqrt()) })
}

/// What is gathered tile by tile.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    losses: Vec<f64>,
    divergences: Vec<f32>,
    agreed: usize,
    incomparable: bool,
}

impl Comparison {
    /// Takes the predictions of a tile, with the losses of the original.
    pub(super) fn take(
        &mut self,
        cpu: Cpu,
        theirs: Vec<f64>,
        logits: &[f32],
        vocabulary: usize,
        reference: &[f32],
        original_vocabulary: usize,
    ) -> Result<(), Error> {
        self.losses.extend(theirs);
        if vocabulary != original_vocabulary {
            self.incomparable = true;
            return Ok(());
        }
        for found in cpu.divergence(reference, logits, vocabulary)? {
            self.agreed += usize::from(found.same_top);
            #[expect(clippy::cast_possible_truncation, reason = "kept for plots and percentiles")]
            // Rounding may leave less than nothing.
            self.divergences.push(found.kl.max(0.0) as f32);
        }
        Ok(())
    }

    /// The figures, with the losses of the model itself.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
    pub(super) fn figures(self, losses: &[f64], layers: Vec<LayerError>) -> Against {
        let (own, original) = (Figures::of(losses), Figures::of(&self.losses));
        // To first order the difference is the mean of these.
        let pairs = losses.iter().zip(&self.losses);
        let pairs = pairs.map(|(loss, other)| own.perplexity * loss - original.perplexity * other);
        let error = Moments::of(pairs).standard_error;
        let divergence = (!self.incomparable).then(|| {
            let moments = Moments::of(self.divergences.iter().map(|number| f64::from(*number)));
            let mut sorted = self.divergences.clone();
            sorted.sort_by(f32::total_cmp);
            Divergence {
                mean: moments.mean,
                standard_error: moments.standard_error,
                median: percentile(&sorted, 0.5),
                p99: percentile(&sorted, 0.99),
                greatest: sorted.last().copied().map_or(0.0, f64::from),
                top1_agreement: self.agreed as f64 / sorted.len().max(1) as f64,
                all: self.divergences,
            }
        });
        Against {
            original,
            losses: self.losses,
            perplexity_difference: own.perplexity - original.perplexity,
            perplexity_difference_error: error,
            divergence,
            layers,
        }
    }
}

/// Between the two nearest, linearly, as numpy does by default.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an index into the list"
)]
fn percentile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (below, above) = (sorted[place as usize], sorted[(place as usize + 1).min(last)]);
    f64::from(below) + (f64::from(above) - f64::from(below)) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_distributions() {
        // (1/2, 1/4, 1/4) against (1/4, 1/2, 1/4), with any offset.
        let original = [2.0_f32.ln() + 5.0, 5.0, 5.0];
        let own = [0.0, 2.0_f32.ln(), 0.0];
        let mut comparison = Comparison::default();
        comparison.take(Cpu::new(), vec![1.0], &own, 3, &original, 3).unwrap();
        let divergence = comparison.figures(&[1.0], Vec::new()).divergence.unwrap();
        assert!((divergence.mean - 0.25 * 2.0_f64.ln()).abs() < 1e-6, "{}", divergence.mean);
        assert!(divergence.top1_agreement.abs() < 1e-12);
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        let sorted = [0.0, 1.0, 2.0, 4.0];
        assert_eq!((percentile(&sorted, 0.5), percentile(&sorted, 1.0), percentile(&[], 0.5)), (1.5, 4.0, 0.0));
    }

    #[test]
    fn the_difference_of_equal_models_is_nothing_and_its_error_too() {
        let mut comparison = Comparison::default();
        let logits = [0.0, 1.0, 2.0, 3.0];
        let losses = [1.0, 2.0];
        comparison.take(Cpu::new(), losses.to_vec(), &logits, 2, &logits, 2).unwrap();
        let against = comparison.figures(&losses, Vec::new());
        assert_eq!((against.perplexity_difference, against.perplexity_difference_error), (0.0, 0.0));
        assert_eq!(against.divergence.map(|divergence| (divergence.mean, divergence.top1_agreement)), Some((0.0, 1.0)));
    }
}
