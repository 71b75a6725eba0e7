//! How modules came out: figures for the report.

use qhost_plugin_api::{
    documents::StatisticsAnswer,
    sdk::{Matrix, UnitHandle},
};
use qhost_rounding::Curvature;

use crate::Difference;

/// The keys of figures.
pub mod metric {
    /// The root of the summed squared errors of the weights over that of the summed squares.
    pub const RELATIVE_ERROR: &str = "relative_rms_error";
    /// The squared error of what the module gives over the square of what it gave, over the calibration data.
    pub const OUTPUT_LOSS: &str = "output_loss";
    /// Tokens that its Hessian is of.
    pub const TOKENS: &str = "tokens";
    /// 1 where an expert saw too few tokens and was shown all.
    pub const ALL_TOKENS: &str = "all_tokens";
    /// Inputs that were always zero.
    pub const DEAD_INPUTS: &str = "dead_inputs";
    /// What was added to the Hessian's diagonal, where that is more than was asked for.
    pub const DAMPING: &str = "damping";
    /// 1 where the inputs told nothing and every weight was rounded for itself.
    pub const PLAIN: &str = "rounded_to_nearest";
}

/// The relative error of weights of which hardly anything is left.
const LOST: f64 = 0.9;

/// What is known of the inputs of modules.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The host's answer about them.
    pub answer: &'a StatisticsAnswer,
    /// Their Hessian.
    pub curvature: &'a Curvature,
    /// What the original model's inputs have more, and the factor of the Hessian.
    pub difference: Option<(&'a Difference, &'a Matrix)>,
}

/// What is summed up over the rows of a module.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Squared errors of what the module gives.
    pub loss: f64,
    /// Squares of what it gave.
    pub energy: f64,
    /// Squared errors of the weights.
    pub errors: f64,
    /// Squares of the weights.
    pub squares: f64,
}

impl Sums {
    /// All together, in the order of the parts, so that figures do not depend on the threads.
    #[must_use]
    pub fn of(parts: &[Self]) -> Self {
        parts.iter().fold(Self::default(), |sum, part| Self {
            loss: sum.loss + part.loss,
            energy: sum.energy + part.energy,
            errors: sum.errors + part.errors,
            squares: sum.squares + part.squares,
        })
    }
}

/// A part of something, as a share of it; nothing is no share of nothing.
#[must_use]
pub fn share(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 0.0 }
}

/// Tells the report how a module came out, given by its segment and its name, that was to be rounded with such damping.
pub fn tell(io: &UnitHandle, damp: f64, (segment, name): (u32, &str), inputs: &Inputs<'_>, sums: Sums) {
    let Inputs { answer, curvature, .. } = inputs;
    let metric = |key: &str, value: f64| io.metric(segment, key, value);
    let loss = share(sums.loss, sums.energy);
    let error = share(sums.errors, sums.squares).sqrt();
    metric(metric::RELATIVE_ERROR, error);
    if error > LOST {
        tracing::warn!("{}: hardly anything is left of its weights, which 16-bit scales may be too coarse for", name);
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (tokens, dead) = (answer.tokens as f64, curvature.dead() as f64);
    metric(metric::TOKENS, tokens);
    if answer.all_tokens {
        metric(metric::ALL_TOKENS, 1.0);
    }
    if curvature.dead() > 0 {
        metric(metric::DEAD_INPUTS, dead);
    }
    if curvature.is_plain() {
        metric(metric::PLAIN, 1.0);
        tracing::warn!("{name}: the calibration data tell nothing of its inputs: rounded to nearest");
        return;
    }
    metric(metric::OUTPUT_LOSS, loss);
    if curvature.damping() > damp {
        metric(metric::DAMPING, curvature.damping());
        tracing::warn!("{name}: its Hessian took damping of {}", curvature.damping());
    }
    tracing::debug!("{name}: output loss {loss:.2e}");
}
