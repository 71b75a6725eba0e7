//! Changes to JSON that leave it JSON: what a reader does with values that it did not expect.

use serde_json::{Value, json};

use crate::random::Random;

/// JSON is rarely nested deeper, and readers stop at 128.
const DEEPEST: usize = 100;

/// What copies of an element or of a text may take together as text: a document is changed several times, and each may copy
/// the copies.
const MOST_COPIED: usize = 16 << 10;

/// Changes a document in one to four places.
pub(super) fn mutate(document: &mut Value, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let (mut node, deepest) = (&mut *document, random.below(8));
        for _ in 0..deepest {
            let count = match node {
                Value::Array(values) => values.len(),
                Value::Object(entries) => entries.len(),
                _ => 0,
            };
            if count == 0 {
                break;
            }
            let at = random.below(count);
            // One of them is there, for there are `count`.
            let inner = match node {
                Value::Array(values) => values.get_mut(at),
                Value::Object(entries) => entries.values_mut().nth(at),
                _ => None,
            };
            match inner {
                Some(inner) => node = inner,
                None => return,
            }
        }
        change(node, random);
    }
}

fn change(node: &mut Value, random: &mut Random) {
    match random.below(10) {
        0..=4 => *node = like(node, random),
        5 => *node = other(random),
        6 => reshape(node, random),
        7 => {
            let inner = node.take();
            *node = if random.below(2) == 0 { json!([inner]) } else { json!({ "inner": inner }) };
        }
        8 => {
            let depth = random.below(DEEPEST);
            *node = (0..depth).fold(node.take(), |inner, _| json!([inner]));
        }
        _ => *node = number(random),
    }
}

/// A value of the same kind.
fn like(node: &Value, random: &mut Random) -> Value {
    match node {
        Value::Number(_) => number(random),
        Value::String(text) => string(text, random),
        Value::Bool(value) => (!value).into(),
        Value::Array(_) | Value::Object(_) => {
            let mut changed = node.clone();
            reshape(&mut changed, random);
            changed
        }
        Value::Null => other(random),
    }
}

/// Numbers on the edges of types.
fn number(random: &mut Random) -> Value {
    let all = [
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(3),
        json!(7),
        json!(127),
        json!(255),
        json!(256),
        json!(65_535),
        json!(1 << 20),
        json!(i32::MAX),
        json!(u32::MAX),
        json!(1_u64 << 32),
        json!(1_u64 << 40),
        json!(1_u64 << 53),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1_u64 << 63),
        json!(u64::MAX),
        json!(u64::MAX - 7),
        json!(0.5),
        json!(-0.0),
        json!(1e-300),
        json!(1e300),
    ];
    random.one(&all).cloned().unwrap_or_default()
}

fn string(text: &str, random: &mut Random) -> Value {
    let characters: Vec<char> = text.chars().collect();
    let at = random.below(characters.len() + 1);
    let (before, after): (String, String) = (characters[..at].iter().collect(), characters[at..].iter().collect());
    match random.below(8) {
        0 => Value::default(),
        1 => "".into(),
        2 => before.into(),
        3 => after.into(),
        4 => format!(
            "{before}{}{after}",
            random.one(&["\0", "\n", "é", "▁", "🦙", "/", "../", "{}", "%", "."]).unwrap_or(&"")
        )
        .into(),
        5 => text.repeat((1 + random.below(20)).min(MOST_COPIED / text.len().max(1))).into(),
        6 => "x".repeat(random.below(5000)).into(),
        _ => number(random).to_string().into(),
    }
}

fn other(random: &mut Random) -> Value {
    match random.below(7) {
        0 => Value::Null,
        1 => true.into(),
        2 => "".into(),
        3 => json!([]),
        4 => json!({}),
        5 => json!([[1, "a", null], {"b": -1}]),
        _ => number(random),
    }
}

/// Fewer elements, more of them, or in another order.
fn reshape(node: &mut Value, random: &mut Random) {
    match node {
        Value::Array(values) if !values.is_empty() => {
            let (at, with) = (random.below(values.len()), random.below(values.len()));
            match random.below(4) {
                0 => drop(values.remove(at)),
                1 => values.truncate(at),
                2 => values.swap(at, with),
                _ => {
                    let room = MOST_COPIED / values[at].to_string().len().max(1);
                    let more = vec![values[at].clone(); (1 + random.below(50)).min(room)];
                    values.extend(more);
                }
            }
        }
        Value::Object(entries) if !entries.is_empty() => {
            let keys: Vec<String> = entries.keys().cloned().collect();
            let key = random.one(&keys).cloned().unwrap_or_default();
            let value = entries.get(&key).cloned().unwrap_or_default();
            match random.below(4) {
                0 | 1 => drop(entries.remove(&key)),
                2 => {
                    entries.remove(&key);
                    let renamed = string(&key, random);
                    entries.insert(renamed.as_str().unwrap_or("").to_owned(), value);
                }
                _ => {
                    // The value of one key under another.
                    let onto = random.one(&keys).cloned().unwrap_or_default();
                    entries.insert(onto, value);
                }
            }
        }
        other => *other = number(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_document_is_not_much_longer() {
        let mut random = Random::new(1);
        let document = json!([[["x".repeat(1000), 1, 2], "y".repeat(1000)], { "a": ["z".repeat(1000)] }]);
        let longest = (0..6_000).map(|_| {
            let mut changed = document.clone();
            mutate(&mut changed, &mut random);
            changed.to_string().len()
        });
        let longest = longest.max().unwrap_or_default();
        assert!((10_000..200_000).contains(&longest), "{longest}");
    }
}
