//! Where a data set is: a file here, or files of a repository of data on a hub.

use std::{
    fmt, fs, io,
    path::{Component, Path, PathBuf},
};

use super::{Error, split};
use crate::{
    cancel::CancelFlag,
    hub::{self, Hub, RemoteFile, RepoId, Settings, Unobserved},
};

/// What says that a name is meant to be one on a hub, even where there is a file of that name.
const SCHEME: &str = "hf://";

/// A data set that the user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Hub(OnHub),
}

/// A part of a data set on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnHub {
    pub(super) id: RepoId,
    /// The configuration, or where there is none of that name the split.
    pub(super) configuration: Option<String>,
    pub(super) split: Option<String>,
}

/// Files that were found.
pub(super) struct Found {
    pub(super) paths: Vec<PathBuf>,
    /// The data set's whole name, for a report.
    pub(super) name: String,
}

impl Source {
    /// What a name means: a file that is there, else `org/name`, `org/name:configuration` or
    /// `org/name:configuration/split`.
    pub(super) fn parse(name: &str) -> Result<Self, Error> {
        if let Some(rest) = name.strip_prefix(SCHEME) {
            return OnHub::parse(rest).map(Self::Hub).ok_or_else(|| Error::BadName { name: name.to_owned() });
        }
        let path = Path::new(name);
        let absent = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if !absent {
            return Ok(Self::File(path.to_owned()));
        }
        let parts: Vec<_> = path.components().collect();
        // Where its first part is a folder, a file below it was meant.
        let below_a_folder =
            matches!(parts[..], [Component::Normal(first), _, ..] if fs::symlink_metadata(first).is_ok());
        let on_hub = OnHub::parse(name).filter(|on_hub| on_hub.id.as_str().contains('/') && !below_a_folder);
        match on_hub {
            Some(on_hub) => Ok(Self::Hub(on_hub)),
            None => Err(Error::Missing { path: path.to_owned() }),
        }
    }
}

impl OnHub {
    /// A part of a data set that is known.
    pub(super) fn of((id, configuration): (&str, &str), split: &str) -> Option<Self> {
        Some(Self {
            id: RepoId::dataset(id)?,
            configuration: Some(configuration.to_owned()),
            split: Some(split.to_owned()),
        })
    }

    fn parse(name: &str) -> Option<Self> {
        let (id, part) = name.split_once(':').map_or((name, None), |(id, part)| (id, Some(part)));
        let (configuration, split) = match part.map(|part| part.split_once('/').unwrap_or((part, ""))) {
            Some((configuration, split)) => (configuration, split),
            None => ("", ""),
        };
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (configuration, split) = (given(configuration), given(split));
        Some(Self { id: RepoId::dataset(id)?, configuration, split })
    }

    /// Brings the files of the part into the cache, those that hold `bytes` bytes, or takes what is there.
    pub(super) fn fetch(
        &self,
        default_split: &str,
        bytes: u64,
        settings: &Settings,
        cancel: &CancelFlag,
    ) -> Result<Found, Error> {
        let hub = Hub::new(settings, self.id.clone(), hub::DEFAULT_REVISION, cancel)?;
        if hub.is_offline() {
            return self.cached(&hub, default_split, bytes);
        }
        let listing = match hub.list_all() {
            Ok(listing) => listing,
            Err(error) if error.is_out_of_reach() => {
                return self.cached(&hub, default_split, bytes).map_err(|_| error.into());
            }
            Err(error) => return Err(error.into()),
        };
        let names: Vec<_> = listing.files.iter().map(|file| file.name.as_str()).collect();
        let chosen = split::choose(&names, self, default_split)?;
        let files: Vec<&RemoteFile> = chosen.iter().filter_map(|name| listing.file(name)).collect();
        let files = &files[..enough(files.iter().map(|file| file.bytes), bytes)];
        hub.download(&listing.commit, files, &Unobserved)?;
        let snapshot = hub.snapshot(&listing.commit);
        let paths = files.iter().map(|file| snapshot.join(&file.name)).collect();
        Ok(Found { paths, name: format!("{self}@{}", listing.commit) })
    }

    /// What the cache has.
    fn cached(&self, hub: &Hub, default_split: &str, bytes: u64) -> Result<Found, Error> {
        let commit = hub.known_commit().filter(|commit| hub.snapshot(commit).is_dir());
        let Some(commit) = commit else { return Err(hub.not_cached("nothing of it is there".into()).into()) };
        let snapshot = hub.snapshot(&commit);
        let mut names = Vec::new();
        list(&snapshot, "", &mut names).map_err(Error::unreadable(&snapshot))?;
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let chosen = split::choose(&names, self, default_split).map_err(|error| hub.not_cached(error.to_string()))?;
        let length = |name: &&str| fs::metadata(snapshot.join(name)).map_or(0, |found| found.len());
        let count = enough(chosen.iter().map(length), bytes);
        if count == chosen.len()
            && chosen.iter().map(length).sum::<u64>() < bytes
            && let Some(missing) = split::missing_shard(&chosen)
        {
            return Err(hub.not_cached(missing).into());
        }
        tracing::info!("{self} is taken from the cache, commit {commit}");
        let paths = chosen[..count].iter().map(|name| snapshot.join(name)).collect();
        Ok(Found { paths, name: format!("{self}@{commit}") })
    }
}

impl fmt::Display for OnHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id.as_str())?;
        match (&self.configuration, &self.split) {
            (None, None) => Ok(()),
            (Some(configuration), None) => write!(f, ":{configuration}"),
            (configuration, Some(split)) => write!(f, ":{}/{split}", configuration.as_deref().unwrap_or_default()),
        }
    }
}

/// How many files, of these lengths, make so many bytes together; at least one.
fn enough(lengths: impl Iterator<Item = u64>, bytes: u64) -> usize {
    let mut sum = 0u64;
    let mut count = 0;
    for length in lengths {
        if count > 0 && sum >= bytes {
            break;
        }
        sum = sum.saturating_add(length);
        count += 1;
    }
    count
}

/// The names of all files below a folder.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows links: a cache is made of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            list(&entry.path(), &format!("{prefix}{name}/"), names)?;
        } else {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_files_or_parts_of_repositories() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, "x").unwrap();
        assert_eq!(Source::parse(file.to_str().unwrap()).unwrap(), Source::File(file));
        let on_hub = |name: &str| match Source::parse(name).unwrap() {
            Source::Hub(on_hub) => (on_hub.id.as_str().to_owned(), on_hub.configuration, on_hub.split),
            Source::File(path) => panic!("{} is a file", path.display()),
        };
        assert_eq!(on_hub("acme/prose"), ("acme/prose".into(), None, None));
        assert_eq!(on_hub("acme/prose:en"), ("acme/prose".into(), Some("en".into()), None));
        assert_eq!(on_hub("acme/prose:en/test"), ("acme/prose".into(), Some("en".into()), Some("test".into())));
        assert_eq!(on_hub("acme/prose:/test"), ("acme/prose".into(), None, Some("test".into())));
        assert_eq!(on_hub("hf://prose"), ("prose".into(), None, None));
        for missing in ["no-such-file.txt", "no/such/file.txt", "./no/file", "prose"] {
            assert!(matches!(Source::parse(missing), Err(Error::Missing { .. })), "{missing}");
        }
        // Below a folder that is there, a file was meant.
        assert!(matches!(Source::parse("src/prose"), Err(Error::Missing { .. })));
        assert!(matches!(Source::parse("hf://a b"), Err(Error::BadName { .. })));
    }

    #[test]
    fn files_are_taken_until_there_is_enough() {
        for (bytes, count) in [(0, 1), (1, 1), (10, 1), (11, 2), (30, 3), (u64::MAX, 3)] {
            assert_eq!(enough([10, 10, 10].into_iter(), bytes), count, "{bytes}");
        }
        assert_eq!(enough([].into_iter(), 5), 0);
    }
}
