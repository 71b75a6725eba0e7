//! Which files of a repository make up a checkpoint, told from their names and lengths alone.
//!
//! The same rules hold for a folder, where [`super::open`] looks for itself.

use std::path::Path;

use super::{
    companions,
    folder::{CONFIG, INDEX, PICKLES, SINGLE},
};

/// The files of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Config, index and companions.
    pub small: Vec<String>,
    /// Where the weights are.
    pub weights: Weights,
    /// Whether there is a config.
    pub has_config: bool,
}

/// Where the weights of a checkpoint are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// In one file of this name.
    Single(String),
    /// In the files that the index names.
    Sharded,
    /// Nowhere; perhaps there is a file in a form that is not read.
    None {
        /// Its name.
        pickle: Option<String>,
    },
}

impl Selection {
    /// Selects from names, relative to the repository, and lengths.
    #[must_use]
    pub fn of(files: &[(&str, u64)]) -> Self {
        let has = |name: &str| files.iter().any(|(file, _)| *file == name);
        let is_pickle = |name: &str| {
            Path::new(name).extension().is_some_and(|ending| PICKLES.iter().any(|pickle| ending == *pickle))
        };
        // The single file comes first, as it does for transformers.
        let weights = if has(SINGLE) {
            Weights::Single(SINGLE.to_owned())
        } else if has(INDEX) {
            Weights::Sharded
        } else {
            let pickles = files.iter().map(|(name, _)| *name).filter(|name| is_pickle(name));
            Weights::None { pickle: pickles.min().map(str::to_owned) }
        };
        let wanted = |&&(name, bytes): &&(&str, u64)| name == INDEX || companions::is_companion(name, bytes);
        let small = files.iter().filter(wanted).map(|(name, _)| (*name).to_owned()).collect();
        Self { small, weights, has_config: has(CONFIG) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(names: &[&str]) -> Selection {
        Selection::of(&names.iter().map(|name| (*name, 10)).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_a_checkpoint_needs_is_selected() {
        let found = selection(&[
            "config.json",
            "tokenizer.json",
            "additional_chat_templates/tool.jinja",
            "additional_chat_templates/deep/er.jinja",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "original/params.json",
            "picture.png",
        ]);
        let small = [
            "config.json",
            "tokenizer.json",
            "additional_chat_templates/tool.jinja",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
        ];
        assert_eq!(found.small, small);
        assert_eq!((found.weights, found.has_config), (Weights::Sharded, true));
        let both = selection(&["model.safetensors", "model.safetensors.index.json"]);
        assert_eq!((both.weights, both.has_config), (Weights::Single("model.safetensors".into()), false));
        let pickle = selection(&["config.json", "pytorch_model.bin"]).weights;
        assert_eq!(pickle, Weights::None { pickle: Some("pytorch_model.bin".into()) });
    }
}
