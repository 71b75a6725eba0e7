//! `qhost plugins new`: a crate for a plugin of one's own, out of the files of `template/`.
//!
//! It knows where the template's words go, and nothing of what the template does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{CommandResult, Session, arguments::NewPluginArguments};
use crate::exit_code::{ExitCode, Fault};

/// The files of the crate. In the template it is called `template-name`, as a crate, as a type and as a library.
const FILES: [(&str, &str); 10] = [
    ("Cargo.toml", include_str!("../../template/Cargo.toml.in")),
    (".gitignore", include_str!("../../template/gitignore")),
    ("README.md", include_str!("../../template/README.md")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs")),
    ("src/plan.rs", include_str!("../../template/src/plan.rs")),
    ("src/make.rs", include_str!("../../template/src/make.rs")),
    ("src/int8.rs", include_str!("../../template/src/int8.rs")),
    ("src/stored.rs", include_str!("../../template/src/stored.rs")),
    ("src/read.rs", include_str!("../../template/src/read.rs")),
    ("src/tests.rs", include_str!("../../template/src/tests.rs")),
];

/// What the template depends on, unless another source is named.
const PUBLISHED: &str = "qhost-plugin-api = \"0.1\"";

/// The most characters of a plugin's id.
const LONGEST: usize = 64;

/// A crate that cannot be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("`{0}` is no name for a plugin")]
    Name(String),
    #[error("{} has something in it", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is not the source of qhost-plugin-api", .0.display())]
    NoSource(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Name(_) | Self::NotEmpty(_) | Self::NoSource(_) => ExitCode::Usage,
            Self::Write { .. } => ExitCode::Resources,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name(_) => {
                format!("it is made of a-z, 0-9 and single hyphens, begins with a letter, and has at most {LONGEST}")
            }
            Self::NotEmpty(_) => "choose another folder with --path; nothing is ever overwritten".into(),
            Self::NoSource(_) => "name the folder with its Cargo.toml: `plugin-api` of the repository".into(),
            Self::Write { .. } => "choose another folder with --path".into(),
        })
    }
}

pub(super) fn run(session: &Session, arguments: &NewPluginArguments) -> CommandResult {
    let name = &arguments.name;
    let folder = make(arguments)?;
    let files: Vec<_> = FILES.iter().map(|(file, _)| *file).collect();
    let shown = folder.display();
    let text = format!(
        "{shown} is a plugin for the format {name}.\n\nNext:\n  cd {shown}\n  cargo test\n  cargo build --release\n  \
         qhost plugins list --plugin-dir target/release\n"
    );
    session.print(
        || json!({"schema": "qhost.new-plugin/1", "status": "done", "id": name, "path": folder, "files": files}),
        || text,
    )
}

/// Makes the crate; nothing is written unless all of it can be.
fn make(arguments: &NewPluginArguments) -> Result<PathBuf, Error> {
    let name = &*arguments.name;
    if !is_name(name) {
        return Err(Error::Name(name.into()));
    }
    let dependency = arguments.plugin_api.as_deref().map(local_source).transpose()?;
    let folder = arguments.path.clone().unwrap_or_else(|| PathBuf::from(name));
    let failed = |path: &Path, source| Error::Write { path: path.to_owned(), source };
    match fs::read_dir(&folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::NotEmpty(folder));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&folder, error)),
    }
    let (type_name, library) = (type_name(name), name.replace('-', "_"));
    for (file, template) in FILES {
        let mut text = template
            .replace("template-name", name)
            .replace("TemplateName", &type_name)
            .replace("template_name", &library);
        if let Some(dependency) = dependency.as_ref().filter(|_| file == "Cargo.toml") {
            text = text.replace(PUBLISHED, dependency);
        }
        let path = folder.join(file);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|error| failed(&path, error))?;
    }
    Ok(folder)
}

/// What a manifest takes as an id and Rust as an identifier, whatever stands before and after it.
fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= LONGEST
        && name.bytes().all(known)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
}

/// `my-format` as `MyFormat`.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    let name: String = name.split('-').map(capital).collect();
    // Names of the template itself, and of Rust.
    if ["Format", "Job", "Planned", "Item", "Holds", "Reader", "Decoder", "Self"].contains(&&*name) {
        return format!("{name}Plugin");
    }
    name
}

/// The line for a source on this machine.
fn local_source(folder: &Path) -> Result<String, Error> {
    let absent = || Error::NoSource(folder.to_owned());
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).map_err(|_| absent())?;
    if !manifest.contains("name = \"qhost-plugin-api\"") {
        return Err(absent());
    }
    let folder = std::path::absolute(folder).map_err(|_| absent())?;
    let path = folder.to_str().ok_or_else(absent)?;
    // TOML has the escapes of JSON.
    Ok(format!("qhost-plugin-api = {{ path = {} }}", json!(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(name: &str, path: &Path) -> NewPluginArguments {
        NewPluginArguments { name: name.into(), path: Some(path.to_owned()), plugin_api: None, format: None }
    }

    #[test]
    fn names_are_those_of_formats_and_of_rust() {
        for name in ["a", "my-format", "int8-2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "A", "8bit", "a_b", "a--b", "-a", "a-", "größe", "a b", "../a", &"a".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
        let types = ["my-format", "int8-2", "job"].map(type_name);
        assert_eq!(types, ["MyFormat", "Int82", "JobPlugin"]);
    }

    #[test]
    fn a_crate_has_its_name_everywhere_and_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(&arguments("my-format", folder.path())).unwrap();
        for (file, _) in FILES {
            let text = fs::read_to_string(made.join(file)).unwrap();
            assert!(!text.to_lowercase().replace('_', "-").contains("template-name"), "{file}");
            assert!(!text.contains("TemplateName"), "{file}");
        }
        let manifest = fs::read_to_string(made.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"qhost-my-format\"") && manifest.contains(PUBLISHED), "{manifest}");
        assert!(matches!(make(&arguments("other", folder.path())), Err(Error::NotEmpty(_))));
        let mut wrong = arguments("other", &folder.path().join("other"));
        wrong.plugin_api = Some(folder.path().to_owned());
        assert!(matches!(make(&wrong), Err(Error::NoSource(_))));
        assert!(!folder.path().join("other").exists());
    }
}
