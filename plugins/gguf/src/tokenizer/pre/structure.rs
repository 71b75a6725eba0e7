//! A `pre_tokenizer` in one spelling, so that structures can be compared.
//!
//! It knows how the tokenizers library splits text, and which spellings of a step do the same; it
//! knows no names of llama.cpp.

use std::fmt::Write;

use serde_json::{Value, json};

use super::super::hugging_face;

/// GPT-2's own split, which `ByteLevel` performs when `use_regex` is set.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// One step of splitting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Matches and the text between them become pieces.
    Isolated(String),
    /// A match is put before the piece that follows it.
    MergedWithNext(String),
    /// Runs of punctuation become pieces.
    PunctuationRuns,
    /// Bytes become characters; later steps see those.
    Bytes,
    /// Anything else, as it is to be shown.
    Other(String),
}

/// The steps of a `pre_tokenizer`, with sequences opened and equal spellings made equal.
pub(super) fn steps(pre_tokenizer: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    for node in hugging_face::steps(pre_tokenizer, "pretokenizers") {
        let flag = |key: &str, default: bool| node.get(key).and_then(Value::as_bool).unwrap_or(default);
        match hugging_face::kind(node) {
            "Split" => steps.push(split(node)),
            // The library's digits are Rust's numeric characters: \p{N}, but for Unicode's newest.
            "Digits" if flag("individual_digits", false) => steps.push(Step::Isolated(r"\p{N}".to_owned())),
            "Digits" => steps.push(Step::Isolated(r"\p{N}+".to_owned())),
            "Punctuation" if node.get("behavior").and_then(Value::as_str) == Some("Contiguous") => {
                steps.push(Step::PunctuationRuns);
            }
            "ByteLevel" => {
                if flag("use_regex", true) {
                    steps.push(Step::Isolated(GPT2.to_owned()));
                }
                steps.push(Step::Bytes);
            }
            other => steps.push(Step::Other(other.to_owned())),
        }
    }
    steps
}

fn split(node: &Value) -> Step {
    let pattern = node.get("pattern");
    let regex = pattern.and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
    let behavior = node.get("behavior").and_then(Value::as_str).unwrap_or("no behavior");
    let invert = node.get("invert").and_then(Value::as_bool).unwrap_or(false);
    let Some(regex) = regex else {
        let text = pattern.and_then(|pattern| pattern.get("String")).and_then(Value::as_str).unwrap_or("");
        return Step::Other(format!("Split({text:?}, {behavior})"));
    };
    let regex = canonical(regex);
    match (behavior, invert) {
        // Isolated keeps matches and gaps alike, so inverting which is which changes nothing.
        ("Isolated", _) => Step::Isolated(regex),
        // "Remove what does not match" removes nothing if every character matches, which these
        // patterns' last resort `\s+` after letters, numbers and all the rest sees to.
        ("Removed", true) if regex.ends_with(r"|\s+") => Step::Isolated(regex),
        ("MergedWithNext", false) => Step::MergedWithNext(regex),
        _ => Step::Other(format!("Split({regex}, {behavior}{})", if invert { ", inverted" } else { "" })),
    }
}

/// A step as `tokenizer.json` has it.
pub(super) fn document(step: &Step) -> Value {
    let split = |regex: &str, behavior: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": false});
    match step {
        Step::Isolated(regex) => split(regex, "Isolated"),
        Step::MergedWithNext(regex) => split(regex, "MergedWithNext"),
        Step::PunctuationRuns => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        Step::Bytes => {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
        }
        Step::Other(kind) => json!({"type": kind}),
    }
}

/// One spelling for patterns that differ only in how they are written.
fn canonical(regex: &str) -> String {
    regex
        // Some files have the characters themselves where others have escapes.
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace('\t', r"\t")
        // llama.cpp's own spelling, which std::regex needs, comes back through exporters.
        .replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
}

/// The structure on one line, with long patterns cut.
pub(super) fn show(steps: &[Step]) -> String {
    const LONGEST: usize = 160;
    if steps.is_empty() {
        return "no pre-tokenizer".to_owned();
    }
    let mut text = String::new();
    for (index, step) in steps.iter().enumerate() {
        if index > 0 {
            text.push_str(" > ");
        }
        let (regex, suffix) = match step {
            Step::Isolated(regex) => (regex, ""),
            Step::MergedWithNext(regex) => (regex, ", merged with next"),
            Step::PunctuationRuns => {
                text.push_str("Punctuation(runs)");
                continue;
            }
            Step::Bytes => {
                text.push_str("ByteLevel");
                continue;
            }
            Step::Other(shown) => {
                text.push_str(shown);
                continue;
            }
        };
        let cut: String = regex.chars().take(LONGEST).collect();
        let dots = if cut.len() < regex.len() { "…" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "Split({cut}{dots}{suffix})");
    }
    text
}
