//! The outcome of re-reading an output.

use serde::{Deserialize, Serialize};

use super::Document;

/// What a check of finished files found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Always [`Findings::SCHEMA`].
    pub schema: String,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

impl Findings {
    /// Whether every check passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.status == CheckStatus::Passed)
    }
}

impl Document for Findings {
    const SCHEMA: &'static str = "qhost.findings/1";
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked, in a word or two: `structure`, `numbers`.
    pub name: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was seen, with the file or tensor if it failed.
    pub detail: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Passed,
    /// Wrong.
    Failed,
}
