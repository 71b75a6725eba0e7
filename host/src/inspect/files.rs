//! Which files make up a model: one, or the parts of a split one, by their names.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost_plugin_api::documents::{Manifest, SourceFile};

use super::Error;
use crate::{
    plugin::{Catalog, Found},
    source,
    stream::MappedFile,
};

/// Bytes that magic numbers are looked for in.
const FRONT: usize = 64;

/// A mapped file.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name, relative to the folder.
    pub name: String,
    /// Whether it has weights; else it is a small file that belongs to the model.
    pub has_weights: bool,
    /// Its bytes.
    pub mapping: Arc<MappedFile>,
}

impl File {
    /// The first bytes.
    pub(super) fn front(&self) -> &[u8] {
        let bytes = self.mapping.bytes();
        &bytes[..bytes.len().min(FRONT)]
    }

    /// Name and length.
    pub(super) fn described(&self) -> SourceFile {
        SourceFile::new(self.name.clone(), self.mapping.bytes().len() as u64)
    }
}

/// Maps files.
pub(super) fn map(paths: &[PathBuf]) -> Result<Vec<File>, Error> {
    let open = |path: &PathBuf| {
        let mapping = MappedFile::open(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        Ok(File { name: name_of(path), has_weights: true, mapping: Arc::new(mapping) })
    };
    paths.iter().map(open).collect()
}

/// Maps the files of the model in a folder: those with weights first.
pub(super) fn map_folder(folder: &Path) -> Result<Vec<File>, Error> {
    let unreadable = |path: &Path, source| Error::Unreadable { path: path.to_owned(), source };
    let found = source::model_files(folder).map_err(|source| unreadable(folder, source))?;
    let weights = found.weights.into_iter().map(|file| (file, true));
    let small = found.small.into_iter().map(|file| (file, false));
    let open = |((name, path), has_weights): ((String, PathBuf), bool)| {
        let mapping = MappedFile::open(&path).map_err(|source| unreadable(&path, source))?;
        Ok(File { name, has_weights, mapping: Arc::new(mapping) })
    };
    weights.chain(small).map(open).collect()
}

/// The plugins that may read the model in a folder, by what its small files say.
pub(super) fn readers_of_folder<'a>(folder: &Path, catalog: &'a Catalog) -> Vec<(&'a Found, &'a Manifest)> {
    if !folder.is_dir() {
        return Vec::new();
    }
    catalog.reading_folder(&|name| {
        // A name with a path in it is no file of the folder.
        let plain = Path::new(name).file_name().is_some_and(|plain| plain == name);
        let bytes = plain.then(|| fs::read(folder.join(name)).ok()).flatten()?;
        serde_json::from_slice(&bytes).ok()
    })
}

/// A file, together with the other parts if it is one of several.
pub(super) fn with_siblings(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = name_of(path);
    let Some(part) = Part::of(&name) else { return Ok(vec![path.to_owned()]) };
    // A bare name is in the working directory.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut parts = BTreeMap::new();
    for other in names_in(folder)? {
        if let Some(number) = Part::of(&other).filter(|other| other.model() == part.model()).map(|other| other.number) {
            parts.insert(number, folder.join(other));
        }
    }
    Ok(parts.into_values().collect())
}

/// What to say if parts of a split model are not there.
pub(super) fn missing_parts(paths: &[PathBuf]) -> Vec<String> {
    let names: Vec<_> = paths.iter().map(|path| name_of(path)).collect();
    let Some(part) = names.first().and_then(|name| Part::of(name)) else { return Vec::new() };
    let of = part.count;
    let here = names.len() as u64;
    if here == of { Vec::new() } else { vec![format!("only {here} of {of} parts of the model are here")] }
}

/// The files of the only model in a folder that a plugin reads.
pub(super) fn only_model(folder: &Path, catalog: &Catalog) -> Result<Vec<PathBuf>, Error> {
    let readable = catalog.readable_endings();
    let mut models: BTreeMap<(String, u64), Vec<String>> = BTreeMap::new();
    for name in names_in(folder)? {
        let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
        if ending.is_some_and(|ending| readable.contains(ending.as_str())) {
            let model = Part::of(&name).map_or_else(|| (name.clone(), 1), |part| (part.stem.to_owned(), part.count));
            models.entry(model).or_default().push(name);
        }
    }
    let mut files = models.into_values();
    match (files.next(), files.next()) {
        (None, _) => Err(Error::Nothing { path: folder.to_owned(), endings: endings(catalog) }),
        (Some(mut only), None) => {
            only.sort();
            Ok(only.into_iter().map(|name| folder.join(name)).collect())
        }
        (Some(first), Some(second)) => {
            let others = [first, second].into_iter().chain(files);
            let models = others.filter_map(|files| files.into_iter().min()).collect();
            Err(Error::Several { path: folder.to_owned(), models })
        }
    }
}

/// The endings of everything that can be looked at.
pub(super) fn endings(catalog: &Catalog) -> Vec<String> {
    let of_plugins = catalog.readable_endings().into_iter().map(str::to_owned);
    std::iter::once(super::SAFETENSORS.to_owned()).chain(of_plugins).collect()
}

fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let unreadable = |source| Error::Unreadable { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Names that are no text are of no format.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of one part of a model, `NAME-00002-of-00005.ENDING`: the convention of weight files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'a> {
    stem: &'a str,
    number: u64,
    count: u64,
    ending: &'a str,
}

impl<'a> Part<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (front, ending) = name.rsplit_once('.')?;
        let (front, count) = front.rsplit_once("-of-")?;
        let (stem, number) = front.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let (number, count) =
            (digits(number).then(|| number.parse().ok())??, digits(count).then(|| count.parse().ok())??);
        (1..=count).contains(&number).then_some(Self { stem, number, count, ending })
    }

    /// What all parts of a model have in common.
    fn model(self) -> (&'a str, u64, &'a str) {
        (self.stem, self.count, self.ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_follow_the_convention() {
        let part = Part::of("a-b-00002-of-00010.rows").unwrap();
        assert_eq!((part.stem, part.number, part.count, part.ending), ("a-b", 2, 10, "rows"));
        for name in ["a.rows", "a-2-of-3.rows", "a-00000-of-00003.rows", "a-00004-of-00003.rows", "a-00001-of-00003"] {
            assert_eq!(Part::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_part_brings_those_that_are_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["m-00001-of-00003.x", "m-00003-of-00003.x", "m-00002-of-00002.x", "n-00002-of-00003.x", "m.x"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let paths = with_siblings(&folder.path().join("m-00003-of-00003.x")).unwrap();
        let names: Vec<_> = paths.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["m-00001-of-00003.x", "m-00003-of-00003.x"]);
        assert_eq!(missing_parts(&paths), ["only 2 of 3 parts of the model are here"]);
        assert_eq!(with_siblings(&folder.path().join("m.x")).unwrap().len(), 1);
    }
}
