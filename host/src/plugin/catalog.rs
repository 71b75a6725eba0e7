//! Every library on the search path, usable or not, with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::{FileSignature, FolderSignature, Manifest};
use serde_json::Value;

use sha2::{Digest, Sha256};

use super::{Error, Installed, SearchPath, Unreadable, manifest};

/// What was found on the search path. Nothing of it has been loaded.
#[derive(Debug, Default)]
pub struct Catalog {
    /// One entry per library, in the order of precedence.
    pub found: Vec<Found>,
}

/// One library file.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself, if that can be read.
    pub manifest: Option<Manifest>,
    /// Whether it can be used.
    pub status: Status,
    /// Why not.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The entry in the list of installed plugins, if it was installed.
    pub installed: Option<Installed>,
}

/// Whether a library can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It can.
    Ready,
    /// Another file with the same id comes first.
    Shadowed,
    /// A plugin, but not for this host.
    Incompatible,
    /// Not a plugin, or a damaged one.
    Invalid,
    /// It has crashed.
    Quarantined,
    /// It was installed, and has changed since.
    Modified,
    /// It was installed, and is not there any more.
    Missing,
    /// It was not installed, and only what is may be used.
    Unlocked,
}

impl Status {
    /// The word in lists and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ok",
            Self::Shadowed => "shadowed",
            Self::Incompatible => "incompatible",
            Self::Invalid => "invalid",
            Self::Quarantined => "quarantined",
            Self::Modified => "modified",
            Self::Missing => "missing",
            Self::Unlocked => "unlocked",
        }
    }
}

impl Catalog {
    /// Reads every library file in the folders of a search path, and what is installed.
    ///
    /// # Errors
    /// Fails only for a folder that the user named, or a list of installed plugins, that cannot be read.
    pub fn search(path: &SearchPath) -> Result<Self, Error> {
        let mut files = Vec::new();
        for folder in &path.given {
            let listed = libraries(folder);
            files.extend(listed.map_err(|source| Error::NoFolder { path: folder.clone(), source })?);
        }
        let (last, before) = path.usual.split_last().map_or((None, &[][..]), |(last, before)| (Some(last), before));
        // Most of the usual folders are not there.
        files.extend(before.iter().flat_map(|folder| libraries(folder).unwrap_or_default()));
        let loose = last.map(|folder| libraries(folder).unwrap_or_default()).unwrap_or_default();
        // A folder may be on the path twice, under two names.
        let mut seen = BTreeSet::new();
        let mut is_new = |file: &PathBuf| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone()));
        files.retain(&mut is_new);
        let found = |file: PathBuf| {
            let own = path.own.iter().any(|folder| file.starts_with(folder));
            Found::read(file, path).refused_if(path.locked && !own)
        };
        let mut catalog = Self { found: files.into_iter().map(found).collect() };
        if let Some(store) = &path.store {
            let installed = store.entries()?.into_iter();
            catalog.found.extend(installed.map(|entry| Found::installed(&store.library(&entry), entry, path)));
        }
        catalog.found.extend(loose.into_iter().filter(is_new).map(found));
        catalog.mark_shadowed();
        Ok(catalog)
    }

    fn mark_shadowed(&mut self) {
        let mut first: BTreeMap<String, PathBuf> = BTreeMap::new();
        for found in self.found.iter_mut().filter(|found| found.status == Status::Ready) {
            let Some(manifest) = &found.manifest else { continue };
            if let Some(winner) = first.get(&manifest.id) {
                found.status = Status::Shadowed;
                found.reason = Some(format!("the plugin `{}` is taken from {}", manifest.id, winner.display()));
                found.hint = Some("remove one of the two files".into());
            } else {
                first.insert(manifest.id.clone(), found.path.clone());
            }
        }
    }

    /// The libraries that can be used, with their manifests.
    pub fn ready(&self) -> impl Iterator<Item = (&Found, &Manifest)> {
        let ready = self.found.iter().filter(|found| found.status == Status::Ready);
        ready.filter_map(|found| Some((found, found.manifest.as_ref()?)))
    }

    /// The plugin that brings a format.
    ///
    /// # Errors
    /// Fails when none does; the error names the formats that are there.
    pub fn bringing(&self, format: &str) -> Result<(&Found, &Manifest), Error> {
        let brings = |manifest: &Manifest| manifest.formats.iter().any(|found| found.id == format);
        self.ready().find(|(_, manifest)| brings(manifest)).ok_or_else(|| Error::NoPlugin {
            format: format.to_owned(),
            known: self
                .ready()
                .flat_map(|(_, manifest)| manifest.formats.iter().map(|found| found.id.clone()))
                .collect(),
            unusable: self.found.iter().find_map(|found| {
                let manifest = found.manifest.as_ref().filter(|manifest| brings(manifest))?;
                Some(format!(
                    "{} has it, but the plugin `{}` {} cannot be used: {}",
                    found.path.display(),
                    manifest.id,
                    manifest.version,
                    found.reason.as_deref().unwrap_or("unknown reason")
                ))
            }),
        })
    }

    /// The plugins that may read a file of this name and with these first bytes: by the bytes first, then by
    /// the name alone, as a damaged file has.
    #[must_use]
    pub fn reading(&self, name: &str, front: &[u8]) -> Vec<(&Found, &Manifest)> {
        let signatures = |manifest: &Manifest, fits: &dyn Fn(&FileSignature) -> bool| {
            manifest.formats.iter().flat_map(|format| &format.reads).any(fits)
        };
        let by_bytes = |manifest: &Manifest| signatures(manifest, &|signature| signature.fits_bytes(front));
        let by_name = |manifest: &Manifest| signatures(manifest, &|signature| signature.fits_name(name));
        let sure = self.ready().filter(|(_, manifest)| by_bytes(manifest));
        let unsure = self.ready().filter(|(_, manifest)| !by_bytes(manifest) && by_name(manifest));
        sure.chain(unsure).collect()
    }

    /// The plugins that read a folder; `contents` gives the JSON of a small file in it.
    #[must_use]
    pub fn reading_folder(&self, contents: &dyn Fn(&str) -> Option<Value>) -> Vec<(&Found, &Manifest)> {
        let fits = |signature: &FolderSignature| contents(&signature.file).is_some_and(|found| signature.fits(&found));
        let reads = |manifest: &Manifest| manifest.formats.iter().flat_map(|format| &format.folders).any(fits);
        self.ready().filter(|(_, manifest)| reads(manifest)).collect()
    }

    /// The endings of files that an installed plugin reads.
    #[must_use]
    pub fn readable_endings(&self) -> BTreeSet<&str> {
        let formats = self.ready().flat_map(|(_, manifest)| &manifest.formats);
        formats.flat_map(|format| &format.reads).map(|signature| signature.ending.as_str()).collect()
    }

    /// The plugin with an id.
    ///
    /// # Errors
    /// Fails when there is none that can be used.
    pub fn with_id(&self, id: &str) -> Result<(&Found, &Manifest), Error> {
        self.ready().find(|(_, manifest)| manifest.id == id).ok_or_else(|| {
            let unusable = self.found.iter().find(|found| found.id() == Some(id));
            let unusable = unusable.map(|found| {
                let reason = found.reason.as_deref().unwrap_or("unknown reason");
                (format!("{}: {reason}", found.status.name()), found.hint.clone().unwrap_or_default())
            });
            Error::NoSuchId { id: id.to_owned(), unusable }
        })
    }
}

impl Found {
    /// What can be said of a library without loading it.
    #[must_use]
    pub fn read(path: PathBuf, search: &SearchPath) -> Self {
        let bytes = fs::read(&path);
        Self::of(path, bytes.as_ref().map(Vec::as_slice), search)
    }

    fn of(path: PathBuf, bytes: Result<&[u8], &io::Error>, search: &SearchPath) -> Self {
        let unread = |error: &io::Error| Unreadable::Io(io::Error::new(error.kind(), error.to_string()));
        let manifest = bytes.map_err(unread).and_then(|bytes| {
            let verdict = search.quarantine.as_ref().filter(|quarantine| !quarantine.is_empty());
            let verdict = verdict.and_then(|quarantine| quarantine.verdict(&digest(bytes)));
            Ok((manifest::of_library(bytes)?, verdict))
        });
        let mut found = Self { path, manifest: None, status: Status::Ready, reason: None, hint: None, installed: None };
        match manifest {
            Ok((manifest, verdict)) => {
                found.manifest = Some(manifest);
                if let Some(verdict) = verdict {
                    let check = format!("`qhost plugins check {} --full --release`", found.path.display());
                    let hint = format!("install a fixed build; or, if it was not the plugin's fault: {check}");
                    found.refuse(Status::Quarantined, verdict.sentence(), hint);
                }
            }
            Err(error) => {
                let (reason, hint) = (error.to_string(), error.hint());
                let status = match error {
                    Unreadable::Incompatible { manifest, .. } => {
                        found.manifest = Some(*manifest);
                        Status::Incompatible
                    }
                    _ => Status::Invalid,
                };
                found.refuse(status, reason, hint);
            }
        }
        if let Some(folder) = found.path.parent().filter(|folder| anybody_may_write(folder)) {
            let reason = format!("anybody may put libraries into {}", folder.display());
            found.refuse(
                Status::Invalid,
                reason,
                format!("`chmod o-w {}`, if you trust what is in it", folder.display()),
            );
        }
        found
    }

    /// A library of the store, held against its entry.
    fn installed(path: &Path, entry: Installed, search: &SearchPath) -> Self {
        let again = format!("`qhost plugins install {}`", entry.origin);
        let bytes = fs::read(path);
        let mut found = Self::of(path.to_owned(), bytes.as_ref().map(Vec::as_slice), search);
        match &bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found.refuse(Status::Missing, "its library is not in the store any more".into(), again);
            }
            Ok(bytes) if digest(bytes) != entry.sha256 => {
                found.refuse(Status::Modified, "its library is not the one that was installed".into(), again);
            }
            _ => {}
        }
        found.installed = Some(entry);
        found
    }

    fn refused_if(mut self, unlocked: bool) -> Self {
        if unlocked && self.status == Status::Ready {
            let hint = format!("`qhost plugins install {}`, or leave --locked out", self.path.display());
            self.refuse(Status::Unlocked, "it was not installed, and --locked allows only what is".into(), hint);
        }
        self
    }

    fn refuse(&mut self, status: Status, reason: String, hint: String) {
        (self.status, self.reason, self.hint) = (status, Some(reason), Some(hint));
    }

    /// The plugin's id, if anything tells it.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let of_manifest = self.manifest.as_ref().map(|manifest| manifest.id.as_str());
        of_manifest.or_else(|| self.installed.as_ref().map(|entry| entry.id.as_str()))
    }
}

/// Whether everybody on the machine could put a library there, or replace one.
#[cfg(unix)]
fn anybody_may_write(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o002 != 0)
}

/// Permissions of folders are told otherwise here.
#[cfg(not(unix))]
fn anybody_may_write(_: &Path) -> bool {
    false
}

/// SHA-256 of a library, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    crate::text::hex(&Sha256::digest(bytes))
}

/// The library files of a folder, sorted by name.
fn libraries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_library = path.extension().is_some_and(|ending| ending == std::env::consts::DLL_EXTENSION);
        if is_library && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
