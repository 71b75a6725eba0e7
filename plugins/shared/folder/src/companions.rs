//! The small files of a folder: those of the checkpoint, but for what describes other weights.

use qhost_plugin_api::{
    documents::{Companion, SourceFile},
    sdk::FilesHandle,
};

/// The name of the model's config.
pub const CONFIG: &str = "config.json";

/// What the host writes, and what tells of other weights or of how they were made.
const LEFT_OUT: [&str; 5] = ["README.md", "qhost-report.json", CONFIG, "quantize_config.json", "quant_config.json"];

/// Copies of the checkpoint's small files, those but for which are made: config, index, card.
#[must_use]
pub fn companions(files: &[SourceFile]) -> Vec<Companion> {
    let taken = files.iter().filter(|file| {
        let name = file.name.as_str();
        // An index of weights in other formats would tell of files that are not there.
        !LEFT_OUT.contains(&name) && !name.ends_with(".index.json") && !name.contains('/')
    });
    taken.map(|file| Companion::copy(&*file.name, &*file.name)).collect()
}

/// A warning about files in folders of the checkpoint.
#[must_use]
pub fn not_taken(files: &FilesHandle) -> Option<String> {
    let file = files.list().iter().find(|file| file.name.contains('/'))?;
    Some(format!("{} is not taken along: the output is one folder", file.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_of_other_weights_is_left_out() {
        let names = ["README.md", "config.json", "tokenizer.json", "pytorch_model.bin.index.json", "merges.txt"];
        let files: Vec<_> = names.iter().map(|name| SourceFile::new(*name, 1)).collect();
        let taken: Vec<_> = companions(&files).into_iter().map(|companion| companion.name).collect();
        assert_eq!(taken, ["tokenizer.json", "merges.txt"]);
    }
}
