//! Which modules a config means: by name, by pattern of names, or by class.
//!
//! As the package `compressed-tensors` has it: names count before patterns, and these before classes.

use fancy_regex::Regex;

/// What comes before a pattern.
const PATTERN: &str = "re:";

/// One of the words for modules.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A name, or that of a class: which of them is told by whether a module is called so.
    Word(String),
    /// A pattern that names match from their start.
    Pattern(Box<Regex>),
}

/// How well a word fits a module, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    Name,
    Pattern,
    Class,
}

impl Target {
    /// A word of a config; none if it is no pattern that can be.
    pub(super) fn read(word: &str) -> Option<Self> {
        match word.strip_prefix(PATTERN) {
            None => Some(Self::Word(word.to_owned())),
            Some(pattern) => {
                let pattern = Regex::new(&format!(r"\A(?:{pattern})")).ok()?;
                Some(Self::Pattern(Box::new(pattern)))
            }
        }
    }

    /// How well it fits a linear, if at all. Modules have paths; a word without a dot that is not the name is a class, and
    /// every linear is of any class that linears may have.
    pub(super) fn fit(&self, module: &str) -> Option<Fit> {
        match self {
            Self::Word(word) if word == module => Some(Fit::Name),
            Self::Word(word) => word.ends_with("Linear").then_some(Fit::Class),
            // What cannot be decided within limits matches nothing.
            Self::Pattern(pattern) => pattern.is_match(module).unwrap_or(false).then_some(Fit::Pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_before_patterns_and_these_before_classes() {
        let fit = |word: &str, module: &str| Target::read(word).unwrap().fit(module);
        let module = "model.layers.1.mlp.up_proj";
        assert_eq!(fit(module, module), Some(Fit::Name));
        assert_eq!(fit("re:.*up_proj$", module), Some(Fit::Pattern));
        assert_eq!(fit("re:up_proj", module), None, "from the start");
        assert_eq!(fit("Linear", module), Some(Fit::Class));
        assert_eq!(fit("lm_head", module), None);
        assert_eq!(fit("LlamaAttention", module), None);
        assert!(Fit::Name < Fit::Pattern && Fit::Pattern < Fit::Class);
        assert!(Target::read("re:(").is_none());
    }
}
