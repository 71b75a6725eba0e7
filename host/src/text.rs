//! Small renderings that several rooms share.

use std::{
    borrow::Cow,
    fmt::Write,
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// The system's error with the file that it is about, for `map_err`.
pub fn about(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Nanoseconds since the beginning of 1970; less than 0 before it.
#[must_use]
pub fn nanoseconds(time: SystemTime) -> i128 {
    let whole = |nanoseconds| i128::try_from(nanoseconds).unwrap_or(i128::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => whole(after.as_nanos()),
        Err(before) => -whole(before.duration().as_nanos()),
    }
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A text of somebody else's for the terminal: control characters, with which it could move the cursor
/// or forge lines, are shown as escapes.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().flat_map(|character| {
        let (plain, escape) =
            if character.is_control() { (None, Some(character.escape_default())) } else { (Some(character), None) };
        plain.into_iter().chain(escape.into_iter().flatten())
    });
    Cow::Owned(escaped.collect())
}

/// A word as it is written for a shell.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

/// A list for people: `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn list<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            format!("{} and {}", first.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_for_a_shell_are_quoted_where_they_must_be() {
        for (word, written) in
            [("a-b_c.d/e=f", "a-b_c.d/e=f"), ("a b", "'a b'"), ("", "''"), ("it's $x", r"'it'\''s $x'")]
        {
            assert_eq!(super::shell_word(word), written);
        }
    }

    #[test]
    fn control_characters_are_shown_as_escapes_and_letters_stay() {
        assert_eq!(super::shown("größer\n\u{1b}[31m\u{9b}x"), "größer\\n\\u{1b}[31m\\u{9b}x");
    }
}
