//! The small files that belong to a model: tokenizer, chat template, generation config, model card.
//!
//! Which of them a format needs, and what is in them, is for the plugins.

use std::{fs, io, path::Path};

use super::CompanionFile;

/// Files that are taken along, by name or by ending. Weights, and code that would run, are not.
const ENDINGS: [&str; 5] = [".json", ".jinja", ".model", ".txt", ".tiktoken"];

/// The model card, which tells plugins what the model is called and what it was made from.
const CARD: &str = "README.md";

/// A folder of further chat templates.
pub const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// Larger files are not companions: no tokenizer comes near it.
const LARGEST: u64 = 256 << 20;

/// Whether a file of that name, relative to the checkpoint, and of that length is a companion.
pub(super) fn is_companion(name: &str, bytes: u64) -> bool {
    let plain = name.strip_prefix(TEMPLATE_FOLDER).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    let wanted = ENDINGS.iter().any(|ending| plain.ends_with(ending)) && !plain.ends_with(".safetensors.index.json");
    let wanted = wanted || name == CARD;
    wanted && !plain.contains('/') && bytes <= LARGEST
}

/// Lists the companions in `root`, sorted by name.
pub(super) fn list(root: &Path) -> io::Result<Vec<CompanionFile>> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    let templates = root.join(TEMPLATE_FOLDER);
    if templates.is_dir() {
        collect(&templates, &format!("{TEMPLATE_FOLDER}/"), &mut files)?;
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<CompanionFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows links: a hub cache is made of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        let name = format!("{prefix}{name}");
        if metadata.is_file() && is_companion(&name, metadata.len()) {
            files.push(CompanionFile { name, path: entry.path(), bytes: metadata.len() });
        }
    }
    Ok(())
}
