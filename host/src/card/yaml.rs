//! Writing YAML that no text can break: keys of ours, and strings or lists of strings of anybody's.

use std::fmt::Write;

/// Appends `key: value`.
pub(super) fn put(out: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{key}: {}", scalar(value));
}

/// Appends a list, or nothing if it is empty.
pub(super) fn put_list(out: &mut String, key: &str, values: &[String]) {
    if !values.is_empty() {
        let _ = writeln!(out, "{key}:");
        for value in values {
            let _ = writeln!(out, "- {}", scalar(value));
        }
    }
}

/// A string as a YAML scalar: plain where it can be nothing but a string, else in double quotes.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Control characters, and what YAML takes for line breaks or does not allow in a text.
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            '\u{fffe}' | '\u{ffff}' => quoted.push('\u{fffd}'),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Letters, digits and a few signs, and no word that YAML 1.1 or 1.2 takes for something else than a string.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let starts = text.chars().next().is_some_and(|first| first.is_ascii_alphabetic());
    let rest = text.chars().all(|character| character.is_ascii_alphanumeric() || "-_./".contains(character));
    starts && rest && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What a parser that is not ours makes of it.
    fn read_back(value: &str) -> BTreeMap<String, Vec<String>> {
        let mut text = String::new();
        put_list(&mut text, "before", &["x".into()]);
        put_list(&mut text, "key", &[value.into()]);
        put_list(&mut text, "after", &["y".into()]);
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{value:?}: {error}\n{text}"))
    }

    #[test]
    fn every_string_comes_back_and_breaks_nothing_around_it() {
        let mut strings: Vec<String> = [
            "",
            " ",
            "plain",
            "apache-2.0",
            "a: b",
            "- a",
            "#",
            "a #b",
            "'",
            "\"",
            "\\",
            "\\n",
            "[a]",
            "{a: b}",
            "&a",
            "*a",
            "!t",
            "|",
            ">",
            "%",
            "@",
            "`",
            "---",
            "...",
            "\n---\n",
            "null",
            "NULL",
            "~",
            "true",
            "Yes",
            "no",
            "on",
            "1",
            "1e3",
            "0x1",
            ".inf",
            "1_000",
            "12:30:45",
            "2026-11-25",
            "\u{1b}[31m",
            "\r\n",
            "\u{85}",
            "\u{2028}",
            "\u{feff}x",
            "größer",
            "🦙",
            "a\tb",
            "<<",
            "=",
            "?",
            "? a",
            "a\u{0}b",
            "\u{7f}",
        ]
        .map(str::to_owned)
        .to_vec();
        strings.extend((0..=0x17f).filter_map(char::from_u32).map(|character| format!("a{character}{character}b")));
        strings.extend((0..=0x17f).filter_map(char::from_u32).map(String::from));
        for string in strings {
            let read = read_back(&string);
            assert_eq!(read["key"], [string.as_str()]);
            assert_eq!((&read["before"][..], &read["after"][..]), (&["x".to_owned()][..], &["y".to_owned()][..]));
        }
    }

    #[test]
    fn common_values_are_written_plainly() {
        let mut text = String::new();
        put(&mut text, "license", "apache-2.0");
        put(&mut text, "base_model", "org/Name-1.5_x");
        put(&mut text, "pipeline_tag", "no");
        put_list(&mut text, "none", &[]);
        assert_eq!(text, "license: apache-2.0\nbase_model: org/Name-1.5_x\npipeline_tag: \"no\"\n");
    }
}
