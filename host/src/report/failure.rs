//! Showing what went wrong, with what to do about it.

use serde_json::json;

use super::screen::{self, ERROR, HINT};
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
}

impl<E: Fault> From<E> for Problem {
    fn from(error: E) -> Self {
        Self { code: error.exit_code(), message: error.to_string(), hint: error.hint() }
    }
}

/// Shows an error: as a JSON document on standard output, or in words on standard error.
pub fn show_problem(problem: &Problem, as_json: bool) {
    if as_json {
        screen::print_json(&json!({
            "schema": "qhost.error/1",
            "status": "error",
            "code": problem.code as u8,
            "message": problem.message,
            "hint": problem.hint,
        }));
    } else {
        // Some of the words are a plugin's, or a file's.
        screen::eprint_labelled(ERROR, "error", &shown(&problem.message));
        if let Some(hint) = &problem.hint {
            screen::eprint_labelled(HINT, "hint", &shown(hint));
        }
    }
}
