//! The client of a model hub: what a repository holds, the beginnings of its files, and the files themselves, in
//! the cache that `huggingface_hub` uses.
//!
//! It knows HTTP and the cache's layout. Which files make up a checkpoint, and what is in them, is for others.

mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod id;
mod listing;
mod parallel;
mod retry;
mod settings;
mod token;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

pub use checksum::Checksum;
pub use error::Error;
pub use id::{RepoId, RepoKind};
pub use listing::{Listing, RemoteFile};
pub use settings::Settings;
pub use token::Token;

use self::{cache::RepoCache, client::Client, download::Download, listing::Lister};
use crate::cancel::CancelFlag;

/// The revision that is meant where none is given.
pub const DEFAULT_REVISION: &str = "main";

/// Whoever wants to know how a download gets on. Called from several threads.
pub trait Observer: Sync {
    /// So many bytes need not be fetched: they were there before.
    fn kept(&self, bytes: u64);
    /// So many bytes have arrived.
    fn arrived(&self, bytes: u64);
    /// So many bytes that were told of have to be fetched again.
    fn lost(&self, bytes: u64);
    /// A file is whole and in its place.
    fn finished(&self, name: &str);
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn kept(&self, _: u64) {}
    fn arrived(&self, _: u64) {}
    fn lost(&self, _: u64) {}
    fn finished(&self, _: &str) {}
}

/// One repository of a hub, and its place in the cache.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    id: RepoId,
    revision: String,
    client: Client,
    cache: RepoCache,
    cancel: CancelFlag,
}

impl Hub {
    /// The client for one repository at one revision; no request is sent yet.
    ///
    /// # Errors
    /// Fails when the settings or the revision cannot be used.
    pub fn new(settings: &Settings, id: RepoId, revision: &str, cancel: &CancelFlag) -> Result<Self, Error> {
        if !cache::is_revision(revision) {
            return Err(Error::BadRevision { revision: revision.to_owned() });
        }
        Ok(Self {
            client: Client::new(settings, &id, revision, cancel)?,
            cache: RepoCache::new(&settings.cache, &id),
            settings: settings.clone(),
            revision: revision.to_owned(),
            cancel: cancel.clone(),
            id,
        })
    }

    /// The repository's name.
    #[must_use]
    pub fn id(&self) -> &RepoId {
        &self.id
    }

    /// The revision, as it was asked for.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The hub's address.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    /// Whether no request may be sent.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.settings.offline
    }

    /// The cache's folder.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache.root
    }

    /// The folder in the cache where a commit's files have their names.
    #[must_use]
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.snapshot(commit)
    }

    /// The commit that the cache knows for the revision.
    #[must_use]
    pub fn known_commit(&self) -> Option<String> {
        self.cache.known_commit(&self.revision)
    }

    /// That the cache lacks something, and that the hub may not be asked.
    #[must_use]
    pub fn not_cached(&self, missing: String) -> Error {
        let model = if self.revision == DEFAULT_REVISION {
            self.id.to_string()
        } else {
            format!("{} at {}", self.id, self.revision)
        };
        Error::NotCached { model, cache: self.cache.root.clone(), missing }
    }

    /// The files at the revision: those at the top, and those in `folders`.
    ///
    /// Of a full commit, which never changes, a listing that `huggingface_hub` has kept will do.
    ///
    /// # Errors
    /// Fails when the hub cannot be reached or does not give the listing.
    pub fn list(&self, folders: &[&str]) -> Result<Listing, Error> {
        self.listed(Some(folders))
    }

    /// All files at the revision, in whatever folders.
    ///
    /// # Errors
    /// Fails when the hub cannot be reached or does not give the listing.
    pub fn list_all(&self) -> Result<Listing, Error> {
        self.listed(None)
    }

    /// The files at the top and in some folders, or all of them.
    fn listed(&self, folders: Option<&[&str]>) -> Result<Listing, Error> {
        let pinned = checksum::is_hex(&self.revision, 40).then(|| self.revision.to_ascii_lowercase());
        if let Some(files) = pinned.as_ref().and_then(|commit| self.cache.kept_listing(commit)) {
            return Ok(Listing { commit: self.revision.to_ascii_lowercase(), files });
        }
        let api = format!("{}/api/{}", self.settings.endpoint, self.id.in_api());
        let lister = Lister { client: &self.client, cancel: &self.cancel, api };
        let listed = pinned.map_or_else(|| lister.commit(&self.revision), Ok);
        let files = |commit: &str| match folders {
            Some(folders) => lister.files(commit, folders),
            None => lister.all_files(commit),
        };
        let listed = listed.and_then(|commit| Ok((files(&commit)?, commit)));
        let (files, commit) = self.or_interrupted(listed)?;
        tracing::info!("{} at {} is commit {commit}, with {} files", self.id, self.revision, files.len());
        Ok(Listing { commit, files })
    }

    /// The checksum by which the cache keeps a file of a snapshot, where it tells.
    #[must_use]
    pub fn digest_in_cache(&self, commit: &str, name: &str) -> Option<String> {
        self.cache.digest(commit, name)
    }

    /// Whether a file is in the cache.
    #[must_use]
    pub fn holds(&self, commit: &str, file: &RemoteFile) -> bool {
        self.cache.holds(commit, file)
    }

    /// Bytes of a file that still have to be fetched.
    #[must_use]
    pub fn missing_bytes(&self, commit: &str, file: &RemoteFile) -> u64 {
        if self.holds(commit, file) { 0 } else { file.bytes - self.cache.arrived(file) }
    }

    /// Brings files into the cache, and notes which commit the revision names.
    ///
    /// # Errors
    /// Fails with the first file that cannot be fetched; what has arrived is kept.
    pub fn download(&self, commit: &str, files: &[&RemoteFile], observer: &dyn Observer) -> Result<(), Error> {
        if files.iter().all(|file| self.cache.holds(commit, file)) {
            // A cache that has everything may be one that only others write to.
            if let Err(error) = self.cache.note_commit(&self.revision, commit) {
                tracing::debug!("{error}");
            }
        } else {
            self.cache.make_folders()?;
            self.cache.note_commit(&self.revision, commit)?;
        }
        // The largest first: they take longest.
        let mut files = files.to_vec();
        files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        let download = self.transfer(commit, observer);
        let failed = || download.stop.store(true, Ordering::Relaxed);
        self.or_interrupted(parallel::for_each(&files, |file| download.fetch(file), failed).map(drop))
    }

    /// When the user has asked to stop, whatever failed did so because of that.
    fn or_interrupted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let interrupted = || Error::Interrupted { cache: self.cache.root.clone() };
        outcome.map_err(|error| if self.cancel.is_cancelled() { interrupted() } else { error })
    }

    /// The beginnings of files, which are not put into the cache: `bytes` of each, and if `needed` says so of what
    /// came, more.
    ///
    /// # Errors
    /// Fails with the first file that cannot be fetched.
    pub fn beginnings(
        &self,
        commit: &str,
        files: &[&RemoteFile],
        bytes: u64,
        needed: impl Fn(&[u8]) -> u64 + Sync,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let download = self.transfer(commit, &Unobserved);
        let beginning = |file: &&RemoteFile| {
            let start = download::first_bytes(&download, file, bytes)?;
            let needed = needed(&start).min(file.bytes);
            if needed <= start.len() as u64 { Ok(start) } else { download::first_bytes(&download, file, needed) }
        };
        self.or_interrupted(parallel::for_each(files, beginning, || ()))
    }

    fn transfer<'a>(&'a self, commit: &'a str, observer: &'a dyn Observer) -> Download<'a> {
        Download {
            client: &self.client,
            cache: &self.cache,
            cancel: &self.cancel,
            commit,
            address: format!("{}/{}/resolve/{commit}", self.settings.endpoint, self.id),
            observer,
            stop: AtomicBool::new(false),
        }
    }
}
