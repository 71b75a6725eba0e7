//! Where a checkpoint came from, as far as its folder tells: a repository of a hub, and a commit.
//!
//! Two traces are known, both left by hub clients: the layout of their cache
//! (`models--OWNER--NAME/snapshots/COMMIT`), and the notes beside files that were fetched into a folder
//! (`.cache/huggingface/download/FILE.metadata`, whose first line is the commit).

use std::{fs, path::Path};

/// What is known of a checkpoint's origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The repository, as `owner/name`.
    pub repository: Option<String>,
    /// The commit, in hexadecimal.
    pub commit: Option<String>,
}

impl Origin {
    /// Reads the traces in and around a folder.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let cached = Self::in_cache(root);
        if cached.repository.is_some() { cached } else { Self { commit: fetched(root), ..Self::default() } }
    }

    fn in_cache(root: &Path) -> Self {
        let name = |path: Option<&Path>| path?.file_name()?.to_str().map(str::to_owned);
        let snapshots = root.parent();
        let repository = name(snapshots.and_then(Path::parent));
        let repository = repository.as_deref().and_then(|name| name.strip_prefix("models--"));
        match (name(snapshots).as_deref(), repository.and_then(|name| name.split_once("--"))) {
            (Some("snapshots"), Some((owner, model))) => {
                let repository = format!("{owner}/{model}");
                let commit = name(Some(root)).filter(|commit| is_commit(commit));
                Self { repository: is_repository(&repository).then_some(repository), commit }
            }
            _ => Self::default(),
        }
    }
}

fn fetched(root: &Path) -> Option<String> {
    let note = root.join(".cache/huggingface/download/config.json.metadata");
    let text = fs::read_to_string(note).ok()?;
    text.lines().next().map(str::trim).filter(|commit| is_commit(commit)).map(str::to_owned)
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text is `owner/name` in a hub's characters.
fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn known(repository: Option<&str>, commit: Option<&str>) -> Origin {
        Origin { repository: repository.map(str::to_owned), commit: commit.map(str::to_owned) }
    }

    #[test]
    fn a_hub_s_cache_tells_repository_and_commit() {
        let of = |path: &str| Origin::of(Path::new(path));
        let cache = "hub/models--org--My-Model-1.5--x/snapshots";
        assert_eq!(of(&format!("{cache}/{COMMIT}")), known(Some("org/My-Model-1.5--x"), Some(COMMIT)));
        assert_eq!(of(&format!("{cache}/main")), known(Some("org/My-Model-1.5--x"), None));
        assert_eq!(of("models/tinylm"), known(None, None));
        assert_eq!(of(&format!("models--org--a b/snapshots/{COMMIT}")), known(None, None));
    }

    #[test]
    fn a_folder_that_was_fetched_into_tells_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join(".cache/huggingface/download");
        fs::create_dir_all(&notes).unwrap();
        fs::write(notes.join("config.json.metadata"), format!("{COMMIT}\netag\n1700000000.0\n")).unwrap();
        assert_eq!(Origin::of(folder.path()), known(None, Some(COMMIT)));
        fs::write(notes.join("config.json.metadata"), "a token?\n").unwrap();
        assert_eq!(Origin::of(folder.path()), known(None, None));
    }
}
