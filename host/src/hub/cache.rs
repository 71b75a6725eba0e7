//! The folder of one repository in the cache, laid out as `huggingface_hub` does it.
//!
//! ```text
//! CACHE/
//!   models--org--name/             of a data set, datasets--org--name/
//!     blobs/CHECKSUM               a file's contents
//!     blobs/CHECKSUM.incomplete    what has arrived of it so far
//!     refs/main                    the commit that the branch named when it was last asked for
//!     snapshots/COMMIT/NAME        a link to the blob
//!     trees/COMMIT.json            a kept listing; read, and never written here
//!   .locks/models--org--name/CHECKSUM.lock
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{Error, RemoteFile, RepoId, RepoKind, checksum, listing, retry};
use crate::cancel::CancelFlag;

/// How often a lock that somebody else holds is tried again.
const TICK: Duration = Duration::from_millis(50);

/// The cache of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    /// The whole cache's folder.
    pub(super) root: PathBuf,
    repository: PathBuf,
    locks: PathBuf,
    repo: CacheRepo,
}

impl RepoCache {
    pub(super) fn new(root: &Path, id: &RepoId) -> Self {
        // Links in the cache are relative, and the process may be told a relative folder.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let kind = match id.kind() {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        let repo = Repo::new(id.as_str().to_owned(), kind);
        let folder = repo.folder_name();
        Self {
            repository: root.join(&folder),
            locks: root.join(".locks").join(&folder),
            repo: Cache::new(root.clone()).repo(repo),
            root,
        }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    fn blobs(&self) -> PathBuf {
        self.repository.join("blobs")
    }

    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.blobs().join(file.checksum.hex())
    }

    pub(super) fn partial(&self, file: &RemoteFile) -> PathBuf {
        self.blobs().join(format!("{}.incomplete", file.checksum.hex()))
    }

    /// The commit that a revision named when it was last asked for; a commit names itself.
    pub(super) fn known_commit(&self, revision: &str) -> Option<String> {
        let kept = fs::read_to_string(self.repository.join("refs").join(revision)).ok();
        let kept = kept.map(|text| text.trim().to_owned()).filter(|commit| listing::is_commit(commit));
        kept.or_else(|| listing::is_commit(revision).then(|| revision.to_owned()))
    }

    /// Notes the commit that a branch or a tag names.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), Error> {
        let path = self.repository.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.repository);
        make_folder(folder)?;
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(commit.as_bytes())?;
            open_to_others(file.as_file())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(drop).map_err(Error::cache("write", &path))
    }

    /// The listing of a commit that `huggingface_hub` has kept.
    pub(super) fn kept_listing(&self, commit: &str) -> Option<Vec<RemoteFile>> {
        let path = self.repository.join("trees").join(format!("{commit}.json"));
        listing::kept(&fs::read_to_string(path).ok()?)
    }

    /// Whether the file is there in full length, as a blob or, where there are no links, in the snapshot.
    pub(super) fn holds(&self, commit: &str, file: &RemoteFile) -> bool {
        let whole = |path: PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == file.bytes);
        whole(self.blob(file)) || whole(self.snapshot(commit).join(&file.name))
    }

    /// The checksum of a file of a snapshot, by the name of the blob that its link leads to.
    pub(super) fn digest(&self, commit: &str, name: &str) -> Option<String> {
        let blob = fs::canonicalize(self.snapshot(commit).join(name)).ok()?;
        let (folder, name) = (blob.parent()?.file_name()?, blob.file_name()?.to_str()?);
        let known = folder == "blobs" && (checksum::is_hex(name, 40) || checksum::is_hex(name, 64));
        known.then(|| name.to_owned())
    }

    /// Bytes of the file that have arrived so far.
    pub(super) fn arrived(&self, file: &RemoteFile) -> u64 {
        fs::metadata(self.partial(file)).map_or(0, |found| found.len().min(file.bytes))
    }

    /// Makes the folders of blobs and locks.
    pub(super) fn make_folders(&self) -> Result<(), Error> {
        make_folder(&self.blobs())?;
        make_folder(&self.locks)
    }

    /// Waits until no other process, of ours or of `huggingface_hub`, fetches the same file.
    pub(super) fn lock(&self, file: &RemoteFile, cancel: &CancelFlag) -> Result<File, Error> {
        let path = self.locks.join(format!("{}.lock", file.checksum.hex()));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(Error::cache("make", &path))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::warn!("another process fetches {}: waiting for it", file.name);
                        told = true;
                    }
                    if !retry::sleep(TICK, cancel) {
                        return Err(Error::Interrupted { cache: self.root.clone() });
                    }
                }
                // Some network file systems have no locks. Each download is checked all the same.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(Error::cache("lock", &path)(error)),
            }
        }
    }

    /// Gives a file that is there its name in the snapshot.
    pub(super) fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), Error> {
        let (pointer, blob) = (self.snapshot(commit).join(&file.name), self.blob(file));
        if fs::metadata(&pointer).is_ok_and(|found| found.len() == file.bytes) {
            return Ok(());
        }
        let folder = pointer.parent().unwrap_or(&self.repository);
        make_folder(folder)?;
        let target = relative(&blob, folder);
        let link = || {
            // A link of the right name that leads nowhere, or to a blob that was replaced.
            match fs::remove_file(&pointer) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            match symlink(&target, &pointer) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                // Where there are no links, `huggingface_hub` puts the file itself there.
                Err(_) => fs::copy(&blob, &pointer).map(drop),
                Ok(()) => Ok(()),
            }
        };
        link().map_err(Error::cache("link", &pointer))
    }
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::cache("make the folder", folder))
}

/// Temporary files are for their owner alone; the cache may be shared.
#[cfg(unix)]
fn open_to_others(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn open_to_others(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// The way from a folder to a path; both are absolute and in the same tree.
fn relative(path: &Path, from: &Path) -> PathBuf {
    let shared = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}

/// Whether a revision stays within the folder of revisions.
pub(super) fn is_revision(revision: &str) -> bool {
    let sound = !revision.is_empty() && !revision.contains(['\\', '\0', ':', ' ']) && !revision.ends_with('/');
    sound && Path::new(revision).components().all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_also_in_folders() {
        let blob = Path::new("/c/models--a--b/blobs/x");
        assert_eq!(relative(blob, Path::new("/c/models--a--b/snapshots/1")), Path::new("../../blobs/x"));
        assert_eq!(relative(blob, Path::new("/c/models--a--b/snapshots/1/t")), Path::new("../../../blobs/x"));
    }

    #[test]
    fn revisions_stay_in_their_folder() {
        for revision in ["main", "refs/pr/1", "v1.0", "0123abc"] {
            assert!(is_revision(revision), "{revision}");
        }
        for revision in ["", "../../x", "/x", "a/..", "a\\b", "a/"] {
            assert!(!is_revision(revision), "{revision}");
        }
    }
}
