//! The text that a model is measured on, cut into windows.

use super::{Error, Request};
use crate::{
    cancel::CancelFlag,
    dataset::{self, Description, Tokenizer, Tokens},
    evaluate::Score,
};

/// How a text is cut into windows, and what of them is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowing {
    /// Tokens of a window.
    pub ctx: usize,
    /// Which predictions are scored.
    pub score: Score,
}

/// A text as a model reads it.
pub(super) struct Text {
    pub(super) windows: Vec<Vec<u32>>,
    pub(super) description: Description,
    /// None if rows are taken as they are.
    pub(super) windowing: Option<Windowing>,
    pub(super) warnings: Vec<String>,
}

impl Text {
    /// Reads what the user names.
    pub(super) fn read(
        request: &Request,
        tokenizer: Option<&Tokenizer>,
        vocabulary: Option<u64>,
        cancel: &CancelFlag,
    ) -> Result<Self, Error> {
        let wanted = dataset::Request { name: request.dataset.as_deref(), vocabulary, hub: &request.hub, cancel };
        let dataset::Evaluation { tokens, description, warnings } = dataset::evaluation(&wanted, tokenizer)?;
        let (mut windows, windowing) = match tokens {
            Tokens::Rows(rows) => (rows, None),
            Tokens::Text(tokens) => {
                let windowing = request.windowing;
                if tokens.len() < 2 {
                    return Err(Error::NothingToScore { data: description.source });
                }
                let windows = dataset::windows(&tokens, windowing.ctx, first(windowing.score, tokenizer));
                if windows.is_empty() {
                    return Err(Error::TooShort { data: description.source, tokens: tokens.len(), ctx: windowing.ctx });
                }
                (windows, Some(windowing))
            }
        };
        windows.truncate(request.windows.unwrap_or(usize::MAX));
        let score = windowing.map_or(Score::All, |windowing| windowing.score);
        if windows.iter().all(|window| score.positions(window.len()).is_empty()) {
            return Err(Error::NothingToScore { data: description.source });
        }
        Ok(Self { windows, description, windowing, warnings })
    }
}

/// What llama-perplexity puts in the place of each window's first token: the token that begins a text, for models whose
/// texts begin with one.
fn first(score: Score, tokenizer: Option<&Tokenizer>) -> Option<u32> {
    let tokenizer = tokenizer.filter(|tokenizer| score == Score::SecondHalf && tokenizer.adds_bos())?;
    tokenizer.bos()
}
