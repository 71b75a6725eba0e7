//! Every library on the search path, usable or not, with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use qhost_plugin_api::documents::{FileSignature, FolderSignature, Manifest};
use serde_json::Value;

use sha2::{Digest, Sha256};

use super::{Error, Quarantine, SearchPath, Unreadable, manifest};

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
}

impl Status {
    /// The word in lists and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Shadowed => "shadowed",
            Self::Incompatible => "incompatible",
            Self::Invalid => "invalid",
            Self::Quarantined => "quarantined",
        }
    }
}

impl Catalog {
    /// Reads every library file in the folders of a search path.
    ///
    /// # Errors
    /// Fails only for a folder that the user named and that cannot be read.
    pub fn search(path: &SearchPath) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        for folder in &path.given {
            let listed = libraries(folder);
            files.extend(listed.map_err(|source| Error::NoFolder { path: folder.clone(), source })?);
        }
        for folder in &path.usual {
            // Most of the usual folders are not there.
            files.extend(libraries(folder).unwrap_or_default());
        }
        // A folder may be on the path twice, under two names.
        files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
        let quarantine = path.quarantine.as_ref().filter(|quarantine| !quarantine.is_empty());
        let mut catalog = Self { found: files.into_iter().map(|file| Found::read(file, quarantine)).collect() };
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
        self.ready().find(|(_, manifest)| manifest.id == id).ok_or_else(|| Error::NoSuchId { id: id.to_owned() })
    }
}

impl Found {
    fn read(path: PathBuf, quarantine: Option<&Quarantine>) -> Self {
        let unusable = |status, manifest, reason: String, hint: String| Self {
            path: path.clone(),
            manifest,
            status,
            reason: Some(reason),
            hint: Some(hint),
        };
        let read = fs::read(&path).map_err(Unreadable::Io);
        let verdict = match (&read, quarantine) {
            (Ok(bytes), Some(quarantine)) => quarantine.verdict(&digest(bytes)),
            _ => None,
        };
        match (read.and_then(|bytes| manifest::of_library(&bytes)), verdict) {
            (Ok(manifest), Some(verdict)) => {
                let hint = format!(
                    "install a fixed build; or, if it was not the plugin's fault: `qhost plugins check {} --full --release`",
                    path.display()
                );
                unusable(Status::Quarantined, Some(manifest), verdict.sentence(), hint)
            }
            (Ok(manifest), None) => {
                Self { path, manifest: Some(manifest), status: Status::Ready, reason: None, hint: None }
            }
            (Err(error), _) => {
                let (reason, hint) = (error.to_string(), error.hint());
                match error {
                    Unreadable::Incompatible { manifest, .. } => {
                        unusable(Status::Incompatible, Some(*manifest), reason, hint)
                    }
                    _ => unusable(Status::Invalid, None, reason, hint),
                }
            }
        }
    }
}

/// SHA-256 of a library, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
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
