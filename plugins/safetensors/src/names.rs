//! The names of tensors in a folder: those of the checkpoint, but for what is stored otherwise there and what is nested.

/// What ends the names of blocks of microscaled floats.
const BLOCKS: &str = "_blocks";

/// What transformers puts before the names of a language model's tensors in a larger model, and what stands there
/// alone: in its versions 4 and 5.
const NESTED: [(&str, &str); 3] =
    [("language_model.model.", "model."), ("language_model.lm_head.", "lm_head."), ("model.language_model.", "model.")];

/// A name without what says that the weights are in blocks; none if nothing says so.
pub(crate) fn of_blocks(name: &str) -> Option<&str> {
    name.strip_suffix(BLOCKS)
}

/// The name that a tensor has in the language model alone.
pub(crate) fn alone(name: &str) -> String {
    let found = NESTED.iter().find_map(|(nested, alone)| Some((alone, name.strip_prefix(nested)?)));
    found.map_or_else(|| name.to_owned(), |(alone, rest)| format!("{alone}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_nested_model_are_those_of_the_model_alone() {
        for (nested, expected) in [
            ("language_model.model.norm.weight", "model.norm.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("model.language_model.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("model.norm.weight", "model.norm.weight"),
        ] {
            assert_eq!(alone(nested), expected);
        }
        assert_eq!((of_blocks("a.down_proj_blocks"), of_blocks("a.weight")), (Some("a.down_proj"), None));
    }
}
