//! How far the predictions of one file are from those of another, both by llama.cpp.

use crate::perplexity::{log_total, negative_log_likelihood};
use crate::{Error, Model, Result};

/// How far predictions are from those of an original, over all predicted positions of some rows of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// The mean of KL(original ‖ file), in nats.
    pub kl: f64,
    /// At how many of the positions both hold the same token for the most probable one, as a share.
    pub top1_agreement: f64,
    /// The mean negative log-likelihood of the tokens that follow, by the file.
    pub mean_nll: f64,
    /// The same by the original.
    pub mean_nll_original: f64,
    /// How many positions were compared.
    pub scored: usize,
}

impl Model {
    /// The divergence of this model's predictions from those of an original, which has the same vocabulary. Each row starts
    /// with an empty memory, is taken as it is, and counts at all positions that a token follows.
    ///
    /// The memory of attention is `f32`, as in [`Model::logits`]; one row's logits are held at a time.
    ///
    /// # Errors
    /// Fails for vocabularies of other sizes, for rows without a prediction, without weights, and if llama.cpp does.
    pub fn divergence_from(&self, original: &Self, rows: &[Vec<i32>]) -> Result<Divergence> {
        let sizes = (self.vocabulary_size(), original.vocabulary_size());
        if sizes.0 != sizes.1 {
            return Err(Error::Length(format!(
                "vocabularies of {} and {} tokens cannot be compared",
                sizes.0, sizes.1
            )));
        }
        if rows.is_empty() || rows.iter().any(|row| row.len() < 2) {
            return Err(Error::Length("a row needs at least two tokens, and there has to be one".to_owned()));
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ours = self.context(longest)?;
        let mut theirs = original.context(longest)?;
        let mut total = Divergence { kl: 0.0, top1_agreement: 0.0, mean_nll: 0.0, mean_nll_original: 0.0, scored: 0 };
        let mut count = 0.0;
        for row in rows {
            ours.decode(row)?;
            theirs.decode(row)?;
            for (position, &next) in row.iter().skip(1).enumerate() {
                let (file, original) = (ours.row(position)?, theirs.row(position)?);
                total.kl += relative_entropy(original, file);
                total.top1_agreement += f64::from(u8::from(most_probable(original) == most_probable(file)));
                total.mean_nll += negative_log_likelihood(file, next);
                total.mean_nll_original += negative_log_likelihood(original, next);
                total.scored += 1;
                count += 1.0;
            }
        }
        for sum in [&mut total.kl, &mut total.top1_agreement, &mut total.mean_nll, &mut total.mean_nll_original] {
            *sum /= count;
        }
        Ok(total)
    }
}

/// KL(original ‖ file) of the distributions that two rows of logits stand for.
fn relative_entropy(original: &[f32], file: &[f32]) -> f64 {
    let (own, other) = (log_total(original), log_total(file));
    let terms = original.iter().zip(file).map(|(&original, &file)| {
        let (original, file) = (f64::from(original) - own, f64::from(file) - other);
        original.exp() * (original - file)
    });
    terms.sum()
}

/// The token with the largest logit, the first of equals.
fn most_probable(logits: &[f32]) -> Option<usize> {
    let larger = |best: Option<(usize, f32)>, (token, &logit): (usize, &f32)| match best {
        Some((_, most)) if most >= logit => best,
        _ => Some((token, logit)),
    };
    logits.iter().enumerate().fold(None, larger).map(|(token, _)| token)
}
