//! What the comparisons with llama.cpp share.
//!
//! They are apart from the plugin's own tests because they build llama.cpp, which needs cmake,
//! libclang and minutes.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

pub mod blocks;

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{checkpoint::copy_of, command::Qhost, fixture, repository};

/// Has the built executable make a file.
#[must_use]
pub fn quantize(model: &Path, level: &str, output: &Path) -> PathBuf {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", level, "--force", "-o"]);
    let result = qhost.arg(output).arg(model).json();
    result["output_path"].as_str().unwrap().into()
}

/// A copy of a random checkpoint of a family, with a tokenizer of its vocabulary's size.
#[must_use]
pub fn family(name: &str, folder: &Path) -> PathBuf {
    let model = copy_of(&fixture("arch").join(name), folder);
    fs::remove_file(model.join("golden.safetensors")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("tokenizers").join("bpe-gpt2").join(file), model.join(file)).unwrap();
    }
    model
}

/// Some technical prose: the project's own documents.
#[must_use]
pub fn prose() -> String {
    let documents =
        ["README.md", "host/ARCHITECTURE.md", "plugin-api/README.md", "plugin-api/ABI.md", "tests/README.md"];
    documents.iter().map(|name| fs::read_to_string(repository().join(name)).unwrap()).collect()
}
