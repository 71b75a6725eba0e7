//! `tokenizer.ggml.pre`: which of llama.cpp's text splitters does what a tokenizer's `pre_tokenizer`
//! does.
//!
//! The reference converter asks the tokenizer to encode one text and looks the hash of the ids up, so
//! it knows exactly the vocabularies that somebody entered. Here the *structure* is compared instead:
//! the steps of the `pre_tokenizer`, in one spelling, against the steps that llama.cpp implements under
//! each name. A new vocabulary over a known structure needs no entry.
//!
//! It knows the names of llama.cpp and their side effects, and no vocabulary.

mod names;
mod structure;
mod table;

use qhost_plugin_api::sdk::{Failure, Result};
use serde_json::Value;

pub(super) use names::{Traits, traits};

/// What about a tokenizer decides between names that split alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    /// `ignore_merges`: a piece that is a token is taken whole.
    pub(super) ignore_merges: bool,
    /// Whether there is a beginning-of-sequence token at all.
    pub(super) has_bos: bool,
    /// `clean_up_tokenization_spaces`, where it is said.
    pub(super) cleans_spaces: Option<bool>,
}

/// The name for a `pre_tokenizer`.
///
/// A difference in splitting that remains is told in `warnings`.
///
/// # Errors
/// Fails with kind `UNSUPPORTED`, showing the structure, when llama.cpp has nothing that splits so.
pub(super) fn recognise(pre_tokenizer: &Value, wishes: Wishes, warnings: &mut Vec<String>) -> Result<&'static str> {
    let steps = structure::steps(pre_tokenizer);
    let unknown = || {
        Failure::unsupported(format!(
            "llama.cpp has no pre-tokenizer that splits text as this one does: {}",
            structure::show(&steps)
        ))
        .about("tokenizer.json")
        .hint("if you know a name of llama.cpp that fits, pass --plugin-option pre=NAME")
    };
    let (names, limit) = table::find(&steps).ok_or_else(unknown)?;
    // The first of equals: `max_by_key` alone would give the last.
    let best = names.iter().copied().rev().max_by_key(|name| fit(traits(name), wishes));
    let name = best.ok_or_else(unknown)?;
    if let Some(limit) = limit {
        warnings.push(format!("{limit} (pre {name}){}", exact_alternative(name, wishes)));
    }
    Ok(name)
}

/// llama.cpp has a second implementation of GPT-4o's splitting, which is exact and ignores merges. It is not
/// the default because older builds refuse files with its name.
fn exact_alternative(name: &str, wishes: Wishes) -> &'static str {
    if name == "gpt-4o" && wishes.ignore_merges {
        "; --plugin-option pre=granite-embed-multi-97m is exact, but asks for a recent llama.cpp"
    } else {
        ""
    }
}

/// How well a name's side effects suit the tokenizer; what changes token ids weighs most.
///
/// The default of `add_bos_token` is left out: it is overridden in the file.
fn fit(traits: Traits, wishes: Wishes) -> u32 {
    let same_merging = u32::from(traits.ignore_merges == wishes.ignore_merges);
    // Without a BOS in the file llama.cpp takes token 11 for it, except under a few names.
    let same_bos = u32::from(traits.forgets_bos != wishes.has_bos);
    let same_spaces = u32::from(wishes.cleans_spaces.is_some_and(|cleans| cleans != traits.keeps_spaces));
    4 * same_merging + 2 * same_bos + same_spaces
}

/// Whether llama.cpp takes a piece that is a token whole, under a name.
pub(crate) fn splits_whole(name: &str) -> bool {
    traits(name).ignore_merges
}

/// Whether llama.cpp adds a BOS token where the file does not say, under a name.
pub(crate) fn adds_bos(name: &str) -> bool {
    traits(name).adds_bos
}

/// The `pre_tokenizer` that splits text as llama.cpp does under a name, as `tokenizer.json` has it; none if the table
/// does not have the name.
pub(crate) fn splitting(name: &str) -> Option<Value> {
    let steps: Vec<Value> = table::steps(names::usual(name))?.iter().map(structure::document).collect();
    match <[Value; 1]>::try_from(steps) {
        Ok([only]) => Some(only),
        Err(pretokenizers) => Some(serde_json::json!({"type": "Sequence", "pretokenizers": pretokenizers})),
    }
}

/// Checks a name that the user gave.
///
/// # Errors
/// Fails with kind `USAGE` when llama.cpp would refuse a file with this name.
pub(super) fn known(name: &str) -> Result<&'static str> {
    names::KNOWN.iter().copied().find(|known| *known == name).ok_or_else(|| {
        Failure::usage(format!("llama.cpp has no pre-tokenizer named `{name}`"))
            .about("pre")
            .hint(format!("its names are {}", names::KNOWN.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::json;

    use super::*;

    const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    const PLAIN: Wishes = Wishes { ignore_merges: false, has_bos: true, cleans_spaces: None };

    fn split(regex: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    }

    fn bytes(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn sequence(steps: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    fn name(steps: &[Value], wishes: Wishes) -> &'static str {
        recognise(&sequence(steps), wishes, &mut Vec::new()).unwrap()
    }

    #[test]
    fn the_structures_of_published_models_are_recognised() {
        let text = include_str!("../../../../../tests/fixtures/text/pre_tokenizers.json");
        let published: Vec<Value> = serde_json::from_str(text).unwrap();
        for entry in &published {
            let flag = |key: &str| entry[key].as_bool().unwrap();
            let wishes = Wishes { ignore_merges: flag("ignore_merges"), has_bos: flag("bos"), cleans_spaces: None };
            let mut warnings = Vec::new();
            assert_eq!(recognise(&entry["pre_tokenizer"], wishes, &mut warnings).unwrap(), entry["pre"]);
        }
        let given: Vec<&str> = published.iter().filter_map(|entry| entry["pre"].as_str()).collect();
        for name in table::every_name().filter(|name| !["smollm", "stablelm2", "poro-chat"].contains(name)) {
            assert!(given.contains(&name), "{name} has no published structure");
        }
    }

    #[test]
    fn spellings_that_split_alike_are_one_structure() {
        let whole = [split(CL100K), bytes(false)];
        let removed = json!({"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Removed", "invert": true});
        let adapted =
            CL100K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");
        let literal = CL100K.replace(r"\r", "\r").replace(r"\n", "\n");
        let nested = [sequence(&[split(CL100K)]), bytes(false)];
        let expected = name(&whole, PLAIN);
        assert_eq!(name(&[removed, bytes(false)], PLAIN), expected);
        assert_eq!(name(&[split(&adapted), bytes(false)], PLAIN), expected);
        assert_eq!(name(&[split(&literal), bytes(false)], PLAIN), expected);
        assert_eq!(name(&nested, PLAIN), expected);
        assert_eq!(name(&[split(r"\p{N}"), bytes(true)], PLAIN), "starcoder");
    }

    #[test]
    fn side_effects_choose_between_names_that_split_alike() {
        let llama = [split(CL100K), bytes(false)];
        let wishes = |ignore_merges, has_bos| Wishes { ignore_merges, has_bos, cleans_spaces: None };
        assert_eq!(name(&llama, wishes(true, true)), "llama-bpe");
        assert_eq!(name(&llama, wishes(false, true)), "dbrx");
        assert_eq!(name(&llama, wishes(true, false)), "glm4");
        assert_eq!(name(&llama, wishes(false, false)), "chatglm-bpe");
        let digits = [json!({"type": "Digits", "individual_digits": true}), bytes(true)];
        let cleans = |cleans| Wishes { cleans_spaces: Some(cleans), ..PLAIN };
        assert_eq!(name(&digits, cleans(true)), "starcoder");
        assert_eq!(name(&digits, cleans(false)), "smollm");
    }

    #[test]
    fn the_splitting_of_a_name_is_recognised_as_that_name_s() {
        for name in table::every_name() {
            let document = splitting(name).unwrap();
            let steps = structure::steps(&document);
            assert!(table::find(&steps).is_some_and(|(names, _)| names.contains(&name)), "{name}");
        }
        assert_eq!(splitting("llama3"), splitting("llama-bpe"));
        assert_eq!(splitting("default"), None);
    }

    #[test]
    fn an_unknown_structure_is_shown() {
        let steps = [split(r"\p{N}{1,4}"), json!({"type": "Whitespace"}), bytes(false)];
        let failure = recognise(&sequence(&steps), PLAIN, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
        assert!(failure.message.contains(r"Split(\p{N}{1,4}) > Whitespace > ByteLevel"), "{}", failure.message);
        assert!(failure.hint.contains("--plugin-option pre="));
        assert!(recognise(&Value::Null, PLAIN, &mut Vec::new()).is_err());
    }

    #[test]
    fn what_a_name_splits_otherwise_is_told() {
        let o200k = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let tree = sequence(&[split(o200k), bytes(false)]);
        for (ignore_merges, mentions) in [(true, true), (false, false)] {
            let mut warnings = Vec::new();
            let wishes = Wishes { ignore_merges, ..PLAIN };
            assert_eq!(recognise(&tree, wishes, &mut warnings).unwrap(), "gpt-4o");
            assert!(warnings[0].contains("combining marks"));
            assert_eq!(warnings[0].contains("granite-embed-multi-97m"), mentions);
        }
        let mut warnings = Vec::new();
        recognise(&bytes(true), PLAIN, &mut warnings).unwrap();
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_given_name_must_be_known_to_llama_cpp() {
        assert_eq!(known("qwen2").unwrap(), "qwen2");
        assert_eq!(known("qwen9").unwrap_err().kind, FailureKind::USAGE);
    }

    #[test]
    fn every_name_of_the_table_is_known_to_llama_cpp() {
        for name in table::every_name() {
            assert!(names::KNOWN.contains(&name), "{name}");
        }
    }
}
