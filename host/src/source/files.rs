//! Which files of a folder make up a model, for whoever reads the weights otherwise than as floats.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{companions, folder, look};

/// The files of a model in a folder, by the names that it has for them.
#[derive(Debug, Default)]
pub struct ModelFiles {
    /// Those with weights: the single one, those that the index names and that are there, or all.
    pub weights: Vec<(String, PathBuf)>,
    /// The index if it counts, and the companions.
    pub small: Vec<(String, PathBuf)>,
}

/// Lists the files of the model in a folder; whether they are sound is not looked at.
///
/// # Errors
/// Fails when the folder cannot be listed.
pub fn model_files(root: &Path) -> io::Result<ModelFiles> {
    let placed = |name: &str| (name.to_owned(), root.join(name));
    let mut files = ModelFiles::default();
    // The single file comes first, as it does for transformers.
    if root.join(folder::SINGLE).is_file() {
        files.weights.push(placed(folder::SINGLE));
    } else {
        let in_index = if root.join(folder::INDEX).exists() {
            files.small.push(placed(folder::INDEX));
            folder::shards_in_index(root).ok()
        } else {
            None
        };
        files.weights = match in_index {
            Some(names) => names.iter().map(|name| placed(name)).filter(|(_, path)| path.is_file()).collect(),
            None => look::weight_files(root)?
                .into_iter()
                .map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
                .collect(),
        };
    }
    files.small.extend(companions::list(root)?.into_iter().map(|file| (file.name, file.path)));
    Ok(files)
}
