//! Names of repositories: `org/name`, or a name alone.

use std::fmt;

/// The longest name that a hub takes.
const LONGEST: usize = 96;

/// The name of a model on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// The id in `text`, if it can be one by the rules of the Hub: letters, digits, `-`, `_` and `.`, at most one
    /// `/`, no part beginning or ending with `-` or `.`, no `--` and no `..`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let edge = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
        let sound = |part: &str| !part.is_empty() && part.bytes().all(allowed) && !edge(part);
        let parts: Vec<_> = text.split('/').collect();
        let forbidden = text.contains("--") || text.contains("..") || text.as_bytes().ends_with(b".git");
        let whole = text.len() <= LONGEST && !forbidden;
        (whole && parts.len() <= 2 && parts.into_iter().all(sound)).then(|| Self(text.to_owned()))
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the organisation: the model's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
