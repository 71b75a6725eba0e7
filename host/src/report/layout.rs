//! Fitting text into the terminal's width.

use anstream::adapter::strip_str;

/// Where standard output is no terminal.
const DEFAULT: usize = 80;

/// Wider lines are hard to read, and narrower ones hold no table.
const LIMITS: (usize, usize) = (60, 140);

/// The width to write for.
pub(super) fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    terminal.unwrap_or(DEFAULT).clamp(LIMITS.0, LIMITS.1)
}

/// The width of the terminal that standard error is, if it is one.
pub(super) fn screen_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0))
}

/// The first parts that fit into `room` characters with commas between them; the first, even if it is cut.
pub(super) fn as_many_as_fit(parts: &[String], room: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let comma = if text.is_empty() { "" } else { ", " };
        if !text.is_empty() && text.chars().count() + comma.len() + part.chars().count() > room {
            break;
        }
        text.extend([comma, part]);
    }
    text.chars().take(room).collect()
}

/// Breaks a text between words, so that lines after the first begin with `indent` spaces and all end within
/// `width`, the first of which has `used` characters already.
pub(super) fn wrapped(text: &str, used: usize, indent: usize, width: usize) -> String {
    let (mut out, mut column, mut fresh) = (String::new(), used, true);
    for word in text.split(' ') {
        // Colours take no room.
        let length = strip_str(word).to_string().chars().count();
        if !fresh && column + 1 + length > width {
            out.extend(["\n", &" ".repeat(indent)]);
            (column, fresh) = (indent, true);
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        (column, fresh) = (column + length, false);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{as_many_as_fit, wrapped};

    #[test]
    fn what_says_most_stays_on_a_narrow_line() {
        let parts = ["layer 1 of 4", "2 seconds left", "memory 1 MiB"].map(str::to_owned);
        assert_eq!(as_many_as_fit(&parts, 100), "layer 1 of 4, 2 seconds left, memory 1 MiB");
        assert_eq!(as_many_as_fit(&parts, 28), "layer 1 of 4, 2 seconds left");
        assert_eq!(as_many_as_fit(&parts, 27), "layer 1 of 4");
        assert_eq!(as_many_as_fit(&parts, 5), "layer");
        assert_eq!(as_many_as_fit(&[], 5), "");
    }

    #[test]
    fn lines_end_within_the_width_and_hang() {
        assert_eq!(wrapped("one two three four", 4, 2, 12), "one two\n  three four");
        assert_eq!(wrapped("short", 0, 2, 12), "short");
        assert_eq!(wrapped("\u{1b}[1mone\u{1b}[0m two", 0, 2, 7), "\u{1b}[1mone\u{1b}[0m two");
        assert_eq!(
            wrapped("a-word-that-is-longer-than-the-line b", 0, 2, 12),
            "a-word-that-is-longer-than-the-line\n  b"
        );
    }
}
