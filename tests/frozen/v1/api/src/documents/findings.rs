//! The outcome of re-reading an output.

use serde::{Deserialize, Serialize};

use super::Document;

/// What a check of finished files found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Findings {
    /// Always [`Findings::SCHEMA`].
    pub schema: String,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

impl Findings {
    /// The outcome of these checks.
    #[must_use]
    pub fn new(checks: Vec<Check>) -> Self {
        Self { schema: Self::SCHEMA.into(), checks }
    }

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
#[non_exhaustive]
pub struct Check {
    /// What was checked, in a word or two: `structure`, `numbers`.
    pub name: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was seen, with the file or tensor if it failed.
    pub detail: String,
}

impl Check {
    /// A check that found all as it should be.
    pub fn passed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Passed, detail: detail.into() }
    }

    /// A check that found something wrong.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Failed, detail: detail.into() }
    }
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckStatus {
    /// As it should be.
    Passed,
    /// Wrong.
    Failed,
}
