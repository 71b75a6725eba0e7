//! How much time is spent on a better result.

use qhost_plugin_api::sdk::{Failure, Result};
use qhost_rounding::Effort as Search;

/// How much time is spent on a better result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As little as one pass takes.
    Fast,
    /// What pays.
    Default,
    /// Whatever helps.
    Best,
}

impl Effort {
    /// What `--effort` says.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for another word.
    pub fn read(word: Option<&str>) -> Result<Self> {
        match word {
            None | Some("default") => Ok(Self::Default),
            Some("fast") => Ok(Self::Fast),
            Some("best") => Ok(Self::Best),
            Some(effort) => Err(Failure::usage(format!("`{effort}` is no effort"))
                .about("--effort")
                .hint("it is fast, default or best")),
        }
    }

    /// What is tried for each group of weights.
    #[must_use]
    pub fn search(self) -> Search {
        match self {
            Self::Fast => Search { candidates: 16, passes: 0 },
            Self::Default => Search { candidates: 24, passes: 2 },
            Self::Best => Search { candidates: 40, passes: 8 },
        }
    }
}
