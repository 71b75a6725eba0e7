//! What is measured: the executable with its plugins, llama.cpp, and the program of the kernels.

use std::{
    env,
    env::consts::EXE_SUFFIX,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cargo::{self, Workspace},
    provision, stage,
};

/// Built programs.
pub(super) struct Programs {
    dist: PathBuf,
    /// The user's folder of data, for the executable alone.
    home: PathBuf,
    reference: Option<Reference>,
}

/// Programs that have llama.cpp in them.
struct Reference {
    oracle: PathBuf,
    kernels: PathBuf,
}

impl Programs {
    /// Builds the executable and its plugins, and what has llama.cpp in it if that is needed.
    pub(super) fn build(workspace: &Workspace, with_reference: bool) -> Result<Self> {
        let dist = stage::dist()?;
        let home = workspace.target.join("bench").join("home");
        let reference = with_reference.then(|| Reference::build(&workspace.target)).transpose()?;
        Ok(Self { dist, home, reference })
    }

    /// `qhost quantize` into a folder.
    pub(super) fn quantize(&self, model: &Path, level: &str, output: &Path) -> Command {
        let mut qhost = self.qhost("quantize", model, "gguf", level);
        qhost.args(["--force", "--fresh", "-o"]).arg(output);
        qhost
    }

    /// What `qhost plan` says of a level: weights of each type.
    pub(super) fn encodings(&self, model: &Path, level: &str) -> Result<Vec<(String, f64)>> {
        encodings(&document(&cargo::read(&mut self.qhost("plan", model, "gguf", level))?)?)
    }

    /// The executable, with none of the user's own settings.
    pub(super) fn qhost(&self, command: &str, model: &Path, format: &str, level: &str) -> Command {
        let mut qhost = Command::new(self.dist.join(format!("qhost{EXE_SUFFIX}")));
        qhost.arg(command).arg(model).args(["--format", format, "--level", level, "--quiet", "--json"]);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("QHOST_") || name.starts_with("HF_")) {
                qhost.env_remove(name);
            }
        }
        qhost.env("XDG_DATA_HOME", &self.home).env("HF_HUB_OFFLINE", "1");
        qhost
    }

    /// llama.cpp, from a program that gives it its arguments.
    pub(super) fn oracle(&self) -> Result<Command> {
        Ok(Command::new(&self.reference()?.oracle))
    }

    /// What the program of the kernels says.
    pub(super) fn kernels(&self, request: &Value) -> Result<Value> {
        document(&cargo::read(Command::new(&self.reference()?.kernels).arg(request.to_string()))?)
    }

    fn reference(&self) -> Result<&Reference> {
        self.reference.as_ref().context("llama.cpp was not built")
    }
}

impl Reference {
    /// Both in one build, as the executable is built: in two, or for debugging, there would be two of llama.cpp.
    fn build(target: &Path) -> Result<Self> {
        let mut build = cargo::cargo();
        build.args(["build", "--release", "--package", "qhost-oracle", "--bin", "qhost-oracle"]);
        build.args(["--package", "qhost-interop", "--bench", "kernels"]);
        build.args(["--message-format", "json-render-diagnostics"]);
        provision::provision(target)?.apply(&mut build);
        let messages = cargo::read(&mut build)?;
        let built = |name| executable(&messages, name).with_context(|| format!("cargo built no {name}"));
        Ok(Self { oracle: built("qhost-oracle")?, kernels: built("kernels")? })
    }
}

/// The executable of a target among cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = messages.filter(|message| message["target"]["name"] == name);
    executables.find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// This program, for what must not happen in the process that measures: memory that it used would be counted to others.
pub(super) fn this() -> Result<Command> {
    // Its path is no more where a build has put a new one.
    if cfg!(target_os = "linux") {
        return Ok(Command::new("/proc/self/exe"));
    }
    Ok(Command::new(env::current_exe().context("the program does not know its own path")?))
}

/// The document that a program printed.
pub(super) fn document(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON document was printed, but {text}"))
}

/// Weights of each type, from what the executable tells of a file.
fn encodings(told: &Value) -> Result<Vec<(String, f64)>> {
    let rows = told["encodings"].as_array().context("there are no encodings")?;
    let pair = |row: &Value| {
        let name = row["encoding"].as_str().context("an encoding has no name")?;
        Ok((name.to_owned(), figure(row, "elements")?))
    };
    rows.iter().map(pair).collect()
}

/// A number of a document.
pub(super) fn figure(document: &Value, key: &str) -> Result<f64> {
    document[key].as_f64().with_context(|| format!("there is no {key} in {document}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn encodings_are_read_from_what_the_executable_tells() -> Result<()> {
        let told = json!({"encodings": [{"encoding": "Q4_K", "tensors": 2, "elements": 512, "bytes": 288}]});
        assert_eq!(encodings(&told)?, [("Q4_K".to_owned(), 512.0)]);
        assert!(encodings(&json!({"encodings": [{"encoding": "Q4_K"}]})).is_err());
        assert!(encodings(&json!({})).is_err());
        Ok(())
    }

    #[test]
    fn executables_are_found_among_the_messages_of_cargo() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"kernels"},"executable":null}
not a document
{"reason":"compiler-artifact","target":{"name":"kernels"},"executable":"/a/kernels-1"}
{"reason":"compiler-artifact","target":{"name":"qhost-oracle"},"executable":"/a/qhost-oracle"}"#;
        assert_eq!(executable(messages, "kernels"), Some(PathBuf::from("/a/kernels-1")));
        assert_eq!(executable(messages, "qhost-oracle"), Some(PathBuf::from("/a/qhost-oracle")));
        assert_eq!(executable(messages, "qhost"), None);
    }
}
