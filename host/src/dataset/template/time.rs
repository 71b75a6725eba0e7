//! Python's `strftime`, for one fixed day.
//!
//! Some templates tell the model the date. Were it today's, the same data would give other tokens tomorrow; so it is
//! the day that Llama's templates name where nobody tells them the date.

use minijinja::{Error, ErrorKind};

/// Friday, 26 July 2024, at noon.
const DAY: [(char, &str); 26] = [
    ('a', "Fri"),
    ('A', "Friday"),
    ('b', "Jul"),
    ('B', "July"),
    ('c', "Fri Jul 26 12:00:00 2024"),
    ('d', "26"),
    ('D', "07/26/24"),
    ('e', "26"),
    ('f', "000000"),
    ('F', "2024-07-26"),
    ('H', "12"),
    ('I', "12"),
    ('j', "208"),
    ('m', "07"),
    ('M', "00"),
    ('p', "PM"),
    ('S', "00"),
    ('T', "12:00:00"),
    ('u', "5"),
    ('w', "5"),
    ('x', "07/26/24"),
    ('X', "12:00:00"),
    ('y', "24"),
    ('Y', "2024"),
    ('Z', ""),
    ('z', ""),
];

/// The day in that format.
pub(super) fn strftime(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next();
        // `%-d` is without leading zeros.
        let bare = directive == Some('-');
        if bare {
            directive = characters.next();
        }
        let known = directive.and_then(|wanted| DAY.iter().find(|(letter, _)| *letter == wanted));
        match (directive, known) {
            (Some('%'), _) => text.push('%'),
            (_, Some((_, value))) => {
                let short = value.trim_start_matches('0');
                text.push_str(if bare && !short.is_empty() { short } else { value });
            }
            _ => {
                let message = format!("strftime_now knows no %{}", directive.unwrap_or(' '));
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(text)
}
