//! The filter `tojson` as transformers has it: Python's `json.dumps`, which puts spaces behind commas and colons.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Rest, ValueKind},
};

/// How it is laid out.
struct Layout {
    comma: String,
    colon: String,
    /// The indentation of one level.
    indent: Option<String>,
    sorted: bool,
    ascii: bool,
}

#[expect(clippy::needless_pass_by_value, reason = "the engine gives them so")]
pub(super) fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    // In the order of transformers' filter: ensure_ascii, indent, separators, sort_keys.
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let given: Option<Value> = named.get(name)?;
        Ok(given.or_else(|| positional.get(index).cloned()).filter(|value| !value.is_none()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?.map(|indent| match indent.as_i64() {
        Some(width) => " ".repeat(usize::try_from(width).unwrap_or(0)),
        None => indent.to_string(),
    });
    let separators = argument(2, "separators")?;
    let sorted = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let (mut comma, mut colon) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(pair) = separators {
        (comma, colon) = (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string());
    }
    let mut text = String::new();
    Layout { comma, colon, indent, sorted, ascii }.write(value, 0, &mut text)?;
    Ok(text)
}

impl Layout {
    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.map(|item| (None, item)).collect();
                self.block(('[', ']'), items, depth, text)?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((Some(key.to_string()), item));
                }
                if self.sorted {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.block(('{', '}'), entries, depth, text)?;
            }
            kind => {
                let message = format!("a value of the kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn block(
        &self,
        (open, close): (char, char),
        items: Vec<(Option<String>, Value)>,
        depth: usize,
        text: &mut String,
    ) -> Result<(), Error> {
        text.push(open);
        let empty = items.is_empty();
        for (index, (key, item)) in items.into_iter().enumerate() {
            if index > 0 {
                text.push_str(&self.comma);
            }
            self.line(depth + 1, text);
            if let Some(key) = key {
                self.string(&key, text);
                text.push_str(&self.colon);
            }
            self.write(&item, depth + 1, text)?;
        }
        if !empty {
            self.line(depth, text);
        }
        text.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for character in string.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                other if u32::from(other) < 0x20 || (self.ascii && !other.is_ascii()) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
                other => text.push(other),
            }
        }
        text.push('"');
    }
}
