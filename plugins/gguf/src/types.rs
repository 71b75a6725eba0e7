//! Types that the user chooses for tensors, in the words of `llama-quantize`.
//!
//! Who comes first is as in `llama_tensor_get_type`: what is said of the embedding and of the output holds for them
//! whatever else is said; of the patterns the first that is found in a tensor's name counts; a level's mixture comes last,
//! and not at all with `pure`. Unlike there, patterns hold at levels of floats as well. It knows names and types; which
//! tensors are never quantised is the recipe's to say.

use fancy_regex::Regex;
use qhost_ggml::BlockType;
use qhost_plugin_api::sdk::{Failure, Result};

/// What the user chose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    /// Of tensors whose names match.
    patterns: Vec<Pattern>,
    /// Of `output.weight`, and of the embedding where that is the output, too.
    pub(crate) output: Option<BlockType>,
    /// Of `token_embd.weight`.
    pub(crate) embedding: Option<BlockType>,
    /// Whether every tensor has the level's own type, and not that of its mixture.
    pub(crate) pure: bool,
    /// Whether `output.weight` has the type of floats that the checkpoint has for it.
    pub(crate) leaves_output: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    as_given: String,
    regex: Regex,
    block_type: BlockType,
}

impl Types {
    /// Reads `REGEX=TYPE`.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for what is no regular expression, and `UNSUPPORTED` for a type that is not written here.
    pub(crate) fn add_pattern(&mut self, text: &str) -> Result<()> {
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| {
            Failure::usage(format!("`{text}` is not REGEX=TYPE")).about("--tensor-type").hint("such as 'ffn_down=Q6_K'")
        })?;
        let regex = Regex::new(pattern).map_err(|error| {
            Failure::usage(format!("`{pattern}` is no regular expression: {error}"))
                .about("--tensor-type")
                .hint("names in the output are matched, such as blk.0.ffn_down.weight")
        })?;
        self.patterns.push(Pattern { as_given: text.into(), regex, block_type: block_type("--tensor-type", name)? });
        Ok(())
    }

    /// The type that is chosen for one tensor by its name; `source` tells that of floats which the checkpoint has for it.
    pub(crate) fn of_one(&self, name: &str, source: &dyn Fn() -> BlockType) -> Option<BlockType> {
        match name {
            "output.weight" if self.leaves_output => Some(source()),
            "output.weight" => self.output,
            "token_embd.weight" => self.embedding,
            _ => None,
        }
    }

    /// The type of the first pattern that matches a tensor's name.
    pub(crate) fn of_pattern(&self, name: &str) -> Option<BlockType> {
        self.patterns.iter().find(|pattern| pattern.matches(name)).map(|pattern| pattern.block_type)
    }

    /// Whether anything is chosen.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { patterns, output, embedding, pure, leaves_output } = self;
        patterns.is_empty() && output.is_none() && embedding.is_none() && !pure && !leaves_output
    }

    /// Of patterns that match none of these names, what the user should know.
    pub(crate) fn unmatched<'a>(&self, names: &(impl Iterator<Item = &'a str> + Clone)) -> Option<String> {
        let unmatched = self.patterns.iter().filter(|pattern| !names.clone().any(|name| pattern.matches(name)));
        let unmatched: Vec<_> = unmatched.map(|pattern| format!("`{}`", pattern.as_given)).collect();
        match unmatched.as_slice() {
            [] => None,
            some => Some(format!("--tensor-type {}: no tensor that is quantised has such a name", some.join(", "))),
        }
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        // An expression that tracks back too long matches nothing.
        self.regex.is_match(name).unwrap_or(false)
    }
}

/// The type of a name, in any case.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a type that is not written here.
pub(crate) fn block_type(option: &str, name: &str) -> Result<BlockType> {
    let found = BlockType::ALL.into_iter().find(|block_type| block_type.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        Failure::unsupported(format!("there is no type `{name}`"))
            .about(option)
            .hint(format!("the types are {}", BlockType::ALL.map(BlockType::name).join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_is_found_counts() {
        let mut types = Types::default();
        for pattern in [r"blk\.0\..*down=q8_0", "ffn_(down|up)=IQ4_NL", "a=b=F16"] {
            types.add_pattern(pattern).unwrap();
        }
        assert_eq!(types.of_pattern("blk.0.ffn_down.weight"), Some(BlockType::Q8_0));
        assert_eq!(types.of_pattern("blk.10.ffn_down.weight"), Some(BlockType::IQ4NL));
        assert_eq!(types.of_pattern("blk.10.ffn_gate.weight"), None);
        assert_eq!(types.of_pattern("a=b"), Some(BlockType::F16));
        let warning = types.unmatched(&["blk.0.ffn_down.weight", "blk.0.ffn_up.weight"].into_iter()).unwrap();
        assert!(warning.contains("`a=b=F16`") && !warning.contains("down"), "{warning}");
    }

    #[test]
    fn what_is_no_pattern_or_no_type_is_refused() {
        let mut types = Types::default();
        for (text, words) in [("(=Q8_0", "regular expression"), ("a=Q8", "no type `Q8`"), ("a", "REGEX=TYPE")] {
            let failure = types.add_pattern(text).unwrap_err();
            assert!(failure.message.contains(words) && !failure.hint.is_empty(), "{text}: {}", failure.message);
        }
        assert!(types.is_empty());
    }
}
