//! The filter `tojson` as transformers has it: Python's `json.dumps`, which puts spaces behind commas and colons.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, ValueKind},
};

/// Deeper values than Python's interpreter writes by itself are no conversation's.
const DEEPEST: usize = 128;

/// Bytes that a unit of fuel pays for, as in the engine.
const BYTES_PER_FUEL: usize = 64;

/// How it is laid out, and who pays for it: a template may ask for any indentation, and for a value many times over.
struct Layout<'a> {
    state: &'a State<'a, 'a>,
    comma: String,
    colon: String,
    /// The indentation of one level.
    indent: Option<String>,
    sorted: bool,
    ascii: bool,
}

#[expect(clippy::needless_pass_by_value, reason = "the engine gives them so")]
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    // In the order of transformers' filter: ensure_ascii, indent, separators, sort_keys.
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let given: Option<Value> = named.get(name)?;
        Ok(given.or_else(|| positional.get(index).cloned()).filter(|value| !value.is_none()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")?.map(|indent| (indent.as_i64(), indent)) {
        None => None,
        Some((Some(width), _)) => {
            let width = usize::try_from(width).unwrap_or(0);
            pay(state, width)?;
            Some(" ".repeat(width))
        }
        Some((None, indent)) => Some(indent.to_string()),
    };
    let separators = argument(2, "separators")?;
    let sorted = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let (mut comma, mut colon) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(pair) = separators {
        (comma, colon) = (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string());
    }
    let mut text = String::new();
    Layout { state, comma, colon, indent, sorted, ascii }.write(value, 0, &mut text)?;
    Ok(text)
}

/// Takes the fuel for so many bytes, before they are there.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64 + 1)
}

impl Layout<'_> {
    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            let message = format!("a value nested deeper than {DEEPEST} levels is not written as JSON");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| Ok((None, item)));
                self.block(('[', ']'), items, depth, text)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<_> = value.try_iter()?.map(|key| (key.to_string(), key)).collect();
                if self.sorted {
                    keys.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                let entries = keys.into_iter().map(|(name, key)| Ok((Some(name), value.get_item(&key)?)));
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
        items: impl Iterator<Item = Result<(Option<String>, Value), Error>>,
        depth: usize,
        text: &mut String,
    ) -> Result<(), Error> {
        text.push(open);
        let mut empty = true;
        for item in items {
            let (key, item) = item?;
            pay(self.state, self.comma.len() + self.colon.len())?;
            if !empty {
                text.push_str(&self.comma);
            }
            empty = false;
            self.line(depth + 1, text)?;
            if let Some(key) = key {
                self.string(&key, text)?;
                text.push_str(&self.colon);
            }
            self.write(&item, depth + 1, text)?;
        }
        if !empty {
            self.line(depth, text)?;
        }
        text.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, text: &mut String) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            pay(self.state, indent.len().saturating_mul(depth))?;
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&self, string: &str, text: &mut String) -> Result<(), Error> {
        pay(self.state, string.len())?;
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
        Ok(())
    }
}
