//! Perplexity of a text, window by window, in the way of `llama-perplexity`.

use crate::{Error, Model, Result};

/// Which positions of a window count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scored {
    /// All but the first token, which nothing predicts.
    All,
    /// The second half: every token has at least half a window of context, as in `llama-perplexity`.
    SecondHalf,
}

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The mean negative log-likelihood of the scored tokens, in nats.
    pub mean_nll: f64,
    /// How many tokens were scored.
    pub scored: usize,
}

impl Perplexity {
    /// The perplexity: e to the mean negative log-likelihood.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.mean_nll.exp()
    }
}

impl Model {
    /// The perplexity of a text: tokenised whole, cut into windows of `window` tokens without
    /// overlap, the rest dropped. Where the model wants a token that begins a text, it replaces the
    /// first token of each window.
    ///
    /// The memory of attention is `f32` here and `f16` in `llama-perplexity`, which makes a
    /// difference in the fourth digit or so.
    ///
    /// # Errors
    /// Fails without weights or tokenizer, for a text shorter than a window, and if llama.cpp does.
    pub fn perplexity(&self, text: &str, window: usize, scored: Scored) -> Result<Perplexity> {
        if window < 2 {
            return Err(Error::Length("a window needs at least two tokens".to_owned()));
        }
        let mut tokens = self.tokenize(text, true, false)?;
        if tokens.len() < window {
            return Err(Error::Length(format!("the text has {} tokens, less than a window of {window}", tokens.len())));
        }
        let first = match scored {
            Scored::All => 0,
            Scored::SecondHalf => window / 2,
        };
        let begin = self.begin_of_text();
        let mut context = self.context(window)?;
        let (mut total, mut count) = (0.0, 0_u32);
        for window in tokens.chunks_exact_mut(window) {
            let replaced = begin.map(|begin| std::mem::replace(&mut window[0], begin));
            context.evaluate(window, |position, logits| {
                if let Some(&next) = window.get(position + 1).filter(|_| position >= first) {
                    total += negative_log_likelihood(logits, next);
                    count += 1;
                }
            })?;
            if let Some(token) = replaced {
                window[0] = token;
            }
        }
        Ok(Perplexity { mean_nll: total / f64::from(count), scored: count as usize })
    }
}

/// Minus the log of a token's probability. The token is of the vocabulary.
pub(crate) fn negative_log_likelihood(logits: &[f32], token: i32) -> f64 {
    let own = logits.get(token.unsigned_abs() as usize).copied().unwrap_or(f32::NEG_INFINITY);
    log_total(logits) - f64::from(own)
}

/// The log of the sum of the exponentials: what is taken from a logit to make the log of a probability.
pub(crate) fn log_total(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    sum.ln() + f64::from(max)
}
