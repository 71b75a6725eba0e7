//! Making and showing [`Failure`]s.

use std::fmt;

use crate::layouts::{Failure, FailureKind};

impl Failure {
    /// A failure of a kind, with a sentence in plain words.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into().into(), hint: "".into(), subject: "".into(), details: "".into() }
    }

    /// The architecture, shape, level or option cannot be expressed.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(FailureKind::UNSUPPORTED, message)
    }

    /// The input is damaged or incomplete.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(FailureKind::CORRUPT, message)
    }

    /// The request contradicts itself.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(FailureKind::USAGE, message)
    }

    /// A defect in the plugin or the host.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::INTERNAL, message)
    }

    /// The user interrupted the run.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(FailureKind::CANCELLED, "interrupted")
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into().into();
        self
    }

    /// Adds a JSON object for programs.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into().into();
        self
    }

    /// Names the tensor, file or option that it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into().into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() {
            write!(f, "{}", self.message)
        } else {
            write!(f, "{}: {}", self.subject, self.message)
        }
    }
}

impl std::error::Error for Failure {}
