//! The two streams, shared with a progress bar that may be on the screen.

use std::{
    io::{self, Write},
    sync::LazyLock,
};

use anstyle::{AnsiColor, Style};
use indicatif::MultiProgress;
use serde::Serialize;

/// Everything that writes to standard error goes through this, so that a bar and lines do not mix.
pub(super) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const HINT: Style = AnsiColor::Cyan.on_default().bold();
pub(super) const STRONG: Style = Style::new().bold();

/// Prints text to standard output. A reader that has gone away is no error.
pub fn print_text(text: &str) {
    let mut out = anstream::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints one JSON document to standard output.
pub fn print_json(document: &impl Serialize) {
    // The documents hold strings, numbers and lists: they can always be written.
    let text = serde_json::to_string_pretty(document).unwrap_or_else(|error| format!("\"{error}\""));
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line to standard error, above a bar if there is one.
pub(super) fn eprint_line(line: &str) {
    BARS.suspend(|| {
        let mut err = anstream::stderr();
        let _ = writeln!(err, "{line}");
    });
}

/// Prints `label: text` to standard error with a coloured label.
pub(super) fn eprint_labelled(style: Style, label: &str, text: &str) {
    eprint_line(&format!("{style}{label}:{style:#} {text}"));
}
