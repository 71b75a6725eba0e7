//! Showing what went wrong, with what to do about it.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{
    LOGGED,
    screen::{self, ERROR, HINT},
};
use crate::{
    exit_code::{ExitCode, Fault},
    text::shown,
};

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The exit code.
    pub code: ExitCode,
    /// One sentence.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// More for programs.
    pub details: Option<Value>,
}

impl Problem {
    /// A problem of the command line itself.
    #[must_use]
    pub fn new(code: ExitCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()), details: None }
    }
}

impl<E: Fault> From<E> for Problem {
    fn from(error: E) -> Self {
        Self { code: error.exit_code(), message: error.to_string(), hint: error.hint(), details: error.details() }
    }
}

/// Shows the error that the process ends with: as a JSON document on standard output, or in words on standard error. Of two
/// threads that end it at the same time the first is heard.
pub fn show_problem(problem: &Problem, as_json: bool) {
    static SHOWN: AtomicBool = AtomicBool::new(false);
    if SHOWN.swap(true, Ordering::Relaxed) {
        return;
    }
    let Problem { code, message, .. } = problem;
    tracing::error!(target: LOGGED, code = *code as u8, hint = problem.hint.as_deref(), "{message}");
    if as_json {
        // Where it cannot be printed, the exit code still tells.
        let _ = screen::print_json(&json!({
            "schema": "qhost.error/1",
            "status": "error",
            "code": problem.code as u8,
            "message": problem.message,
            "hint": problem.hint,
            "details": problem.details,
        }));
    } else {
        // Some of the words are a plugin's, or a file's.
        screen::eprint_labelled(ERROR, "error", &shown(&problem.message));
        if let Some(hint) = &problem.hint {
            screen::eprint_labelled(HINT, "hint", &shown(hint));
        }
    }
}
