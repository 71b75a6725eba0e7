//! The library in a file that is to be installed: the file itself, or the only library in an archive.
//!
//! Nothing of an archive but that library is written anywhere.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use super::super::Error;

/// More than any plugin has; what claims to be longer is not unpacked.
const MOST_BYTES: u64 = 1 << 30;

/// A library by its file name.
pub(super) struct Library {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The library of a file.
pub(super) fn library_in(path: &Path) -> Result<Library, Error> {
    let unreadable = |source| Error::Store { action: "read", path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_library(&name) {
        return Ok(Library { name, bytes: fs::read(path).map_err(unreadable)? });
    }
    let mut found = Vec::new();
    let ends_with = |ending: &str| name.to_ascii_lowercase().ends_with(ending);
    let listed = if ends_with(".tar.gz") || ends_with(".tgz") {
        File::open(path).and_then(|file| in_tar(flate2::read::GzDecoder::new(file), &mut found))
    } else if ends_with(".tar") {
        File::open(path).and_then(|file| in_tar(file, &mut found))
    } else if ends_with(".zip") {
        File::open(path).and_then(|file| in_zip(file, &mut found))
    } else {
        return Err(Error::NotInstallable { path: path.to_owned(), reason: "it is no library and no archive".into() });
    };
    listed.map_err(unreadable)?;
    let refuse = |reason: String| Error::NotInstallable { path: path.to_owned(), reason };
    match found.len() {
        0 => Err(refuse(format!("there is no *.{} in it", std::env::consts::DLL_EXTENSION))),
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<_> = found.iter().map(|library| library.name.as_str()).collect();
            Err(refuse(format!("there are several libraries in it: {}", names.join(", "))))
        }
    }
}

fn is_library(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == std::env::consts::DLL_EXTENSION)
}

fn in_tar(reader: impl Read, found: &mut Vec<Library>) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader.take(MOST_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.header().entry_type().is_file() && is_library(&name) {
            let bytes = read_all(&mut entry)?;
            found.push(Library { name, bytes });
        }
    }
    Ok(())
}

fn in_zip(file: File, found: &mut Vec<Library>) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(file).map_err(io::Error::other)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(io::Error::other)?;
        let path = entry.name().replace('\\', "/");
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        if entry.is_file() && is_library(&name) {
            let bytes = read_all(&mut entry)?;
            found.push(Library { name, bytes });
        }
    }
    Ok(())
}

fn read_all(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("a library in it is longer than 1 GiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use super::*;

    fn library(name: &str) -> String {
        format!("{}{name}.{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION)
    }

    fn tar(folder: &Path, names: &[&str]) -> PathBuf {
        let path = folder.join("plugin.tar.gz");
        let mut archive =
            tar::Builder::new(flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast()));
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(name.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, format!("deep/{name}"), name.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn the_only_library_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let name = library("x");
        let found = library_in(&tar(folder.path(), &["README.md", &name])).unwrap();
        assert_eq!((found.name.as_str(), found.bytes), (name.as_str(), name.as_bytes().to_vec()));

        let path = folder.path().join("plugin.zip");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(format!("deep/{name}"), options).unwrap();
        archive.write_all(b"library").unwrap();
        archive.finish().unwrap();
        assert_eq!(library_in(&path).unwrap().bytes, b"library");
    }

    #[test]
    fn none_several_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| library_in(path).err().unwrap().to_string();
        assert!(refused(&tar(folder.path(), &["README.md"])).contains("there is no *."));
        let several = refused(&tar(folder.path(), &[&library("x"), &library("y")]));
        assert!(several.contains("several libraries in it: ") && several.contains(&library("y")), "{several}");
        let text = folder.path().join("notes.txt");
        fs::write(&text, "x").unwrap();
        assert!(refused(&text).contains("no library and no archive"));
        let cut = tar(folder.path(), &[&library("x")]);
        let bytes = fs::read(&cut).unwrap();
        fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        assert!(refused(&cut).contains("cannot read"), "{}", refused(&cut));
    }
}
