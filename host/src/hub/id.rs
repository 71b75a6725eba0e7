//! Names of repositories: `org/name`, or a name alone.

use std::fmt;

/// The longest name that a hub takes.
const LONGEST: usize = 96;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// The name of a model, or of a data set, on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    name: String,
    kind: RepoKind,
}

impl RepoId {
    /// The model's id in `text`, if it can be one by the rules of the Hub: letters, digits, `-`, `_` and `.`, at most one
    /// `/`, no part beginning or ending with `-` or `.`, no `--` and no `..`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(text, RepoKind::Model)
    }

    /// The data set's id in `text`, by the same rules.
    #[must_use]
    pub fn dataset(text: &str) -> Option<Self> {
        Self::of(text, RepoKind::Dataset)
    }

    fn of(text: &str, kind: RepoKind) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let edge = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
        let sound = |part: &str| !part.is_empty() && part.bytes().all(allowed) && !edge(part);
        let parts: Vec<_> = text.split('/').collect();
        let forbidden = text.contains("--") || text.contains("..") || text.as_bytes().ends_with(b".git");
        let whole = text.len() <= LONGEST && !forbidden;
        (whole && parts.len() <= 2 && parts.into_iter().all(sound)).then(|| Self { name: text.to_owned(), kind })
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What the repository holds.
    #[must_use]
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// The part of an address below the hub's interface for programs: `models/ID` or `datasets/ID`.
    pub(super) fn in_api(&self) -> String {
        match self.kind {
            RepoKind::Model => format!("models/{}", self.name),
            RepoKind::Dataset => format!("datasets/{}", self.name),
        }
    }

    /// The part behind the organisation: the model's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// The path of its page on the hub, which for a model is its name.
impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RepoKind::Model => f.write_str(&self.name),
            RepoKind::Dataset => write!(f, "datasets/{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RepoId;

    #[test]
    fn ids_are_those_that_the_hub_takes() {
        for id in ["gpt2", "org/name", "Foo-BAR_foo.bar123/x", "123"] {
            assert_eq!(RepoId::parse(id).unwrap().as_str(), id);
        }
        let long = "x".repeat(97);
        for no in ["", "a/b/c", "/a", "a/", ".a", "a--b", "a..b", "a.git", "-a/b", "a/b.", "a b", "a\\b", "~/a", &long]
        {
            assert!(RepoId::parse(no).is_none(), "{no}");
        }
        assert_eq!(RepoId::parse("org/name").unwrap().name(), "name");
    }
}
