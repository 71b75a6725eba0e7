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

/// Prints text to standard output.
///
/// # Errors
/// Fails when it cannot be written; a reader that has gone away is no error.
pub fn print_text(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    unless_gone(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints one JSON document to standard output.
///
/// # Errors
/// Fails when it cannot be written; a reader that has gone away is no error.
pub fn print_json(document: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    let mut out = io::stdout();
    unless_gone(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Asks a question at the terminal; what is typed comes after it, on the same line.
pub fn ask(question: &str) {
    BARS.suspend(|| {
        let mut err = anstream::stderr();
        let _ = write!(err, "{question}").and_then(|()| err.flush());
    });
}

fn unless_gone(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
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
