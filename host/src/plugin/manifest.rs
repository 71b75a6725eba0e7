//! Reading a plugin library without loading it: is the file whole and for this machine, and what
//! does its manifest say?
//!
//! Nothing of the library is executed. A library that passes is safe to map for the system's
//! loader, which would be killed by a truncated one; whether its code is to be trusted is another
//! question, which no reading answers.

use std::{fs, io, path::Path};

use object::{Architecture, BinaryFormat, Endianness, FileKind, Object, ObjectKind, ObjectSection, ObjectSegment};
use qhost_plugin_api::{
    API_VERSION,
    abi::ABI_TAG,
    documents::{Document, Manifest},
};
use semver::{Version, VersionReq};

/// The section's name in ELF and PE files, and in Mach-O files.
const SECTIONS: [&str; 2] = [".qhost", "__qhost"];

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file is not a whole library.
    #[error("not a whole library: {0}")]
    Damaged(String),
    /// The library is for another machine.
    #[error("built for {found}, not for this machine")]
    Foreign {
        /// Format, architecture.
        found: String,
    },
    /// Several libraries for several machines in one file.
    #[error("a universal (fat) Mach-O file; plugins are built for one architecture")]
    Universal,
    /// The library has no manifest.
    #[error("not a qhost plugin: it has no manifest")]
    NoManifest,
    /// The manifest is not what it should be.
    #[error("its manifest is not valid: {0}")]
    BadManifest(String),
    /// The plugin was built for another calling convention or API version.
    #[error("{reason}")]
    Incompatible {
        /// What was found and what this host speaks.
        reason: String,
        /// The manifest, which is otherwise sound.
        manifest: Box<Manifest>,
    },
}

impl Unreadable {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Io(_) => "check the file's permissions".into(),
            Self::Damaged(_) => "the copy is incomplete or not a library: install it again".into(),
            Self::Foreign { .. } => {
                format!("install the build for {}-{}", std::env::consts::ARCH, std::env::consts::OS)
            }
            Self::Universal => format!(
                "take out the part for this machine: `lipo FILE -thin {} -output NEW`",
                if std::env::consts::ARCH == "aarch64" { "arm64" } else { std::env::consts::ARCH }
            ),
            Self::NoManifest => "move the library out of the plugin folder".into(),
            Self::BadManifest(_) => "ask the plugin's authors for a fixed build".into(),
            Self::Incompatible { .. } => "install a version of the plugin or of qhost that fits the other".into(),
        }
    }
}

/// Reads the manifest of the library at `path`, after checking that the file is whole.
///
/// # Errors
/// Fails when the library cannot be used by this host; see [`Unreadable`].
pub fn read(path: &Path) -> Result<Manifest, Unreadable> {
    of_library(&fs::read(path)?)
}

/// The manifest in the bytes of a library, which are checked to be whole.
///
/// # Errors
/// As [`read`].
pub fn of_library(bytes: &[u8]) -> Result<Manifest, Unreadable> {
    check_versions(parse(bytes)?)
}

fn parse(bytes: &[u8]) -> Result<Manifest, Unreadable> {
    let damaged = |error: object::Error| Unreadable::Damaged(error.to_string());
    if bytes.is_empty() {
        return Err(Unreadable::Damaged("the file is empty".into()));
    }
    if let Ok(FileKind::MachOFat32 | FileKind::MachOFat64) = FileKind::parse(bytes) {
        return Err(Unreadable::Universal);
    }
    let file = object::File::parse(bytes).map_err(damaged)?;
    check_machine(&file)?;
    for segment in file.segments() {
        let (start, length) = segment.file_range();
        if start.checked_add(length).is_none_or(|end| end > bytes.len() as u64) {
            return Err(Unreadable::Damaged("it ends before its last segment".into()));
        }
    }
    for section in file.sections() {
        section.data().map_err(damaged)?;
    }
    let section = SECTIONS.iter().find_map(|name| file.section_by_name(name)).ok_or(Unreadable::NoManifest)?;
    let data = section.data().map_err(damaged)?;
    let text = std::str::from_utf8(data).map_err(|_| Unreadable::BadManifest("it is not UTF-8".into()))?;
    // Linkers may pad a section with zeros.
    Manifest::from_json(text.trim_end_matches('\0')).map_err(|failure| Unreadable::BadManifest(failure.message.into()))
}

/// Compares the file with the host's own kind.
fn check_machine(file: &object::File<'_>) -> Result<(), Unreadable> {
    let format = if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else if cfg!(windows) {
        BinaryFormat::Pe
    } else {
        BinaryFormat::Elf
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "x86" => Architecture::I386,
        "aarch64" => Architecture::Aarch64,
        "arm" => Architecture::Arm,
        "riscv64" => Architecture::Riscv64,
        "powerpc64" => Architecture::PowerPc64,
        "s390x" => Architecture::S390x,
        "loongarch64" => Architecture::LoongArch64,
        // An architecture that this list does not know: the loader will tell.
        _ => file.architecture(),
    };
    let endianness = if cfg!(target_endian = "little") { Endianness::Little } else { Endianness::Big };
    if file.kind() != ObjectKind::Dynamic {
        return Err(Unreadable::Damaged("it is an object file or a program, not a shared library".into()));
    }
    let pointer = if file.is_64() { 64 } else { 32 };
    if (file.format(), file.architecture(), file.endianness(), pointer)
        == (format, architecture, endianness, usize::BITS)
    {
        Ok(())
    } else {
        Err(Unreadable::Foreign { found: format!("{:?} {:?} ({pointer}-bit)", file.format(), file.architecture()) })
    }
}

/// Every text of a manifest: they are shown on terminals.
fn texts(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let Manifest { schema, id, version, abi, api, summary, license, homepage, formats, transcodes } = manifest;
    let own = [schema, id, version, abi, api, summary, license, homepage];
    let of_formats = formats.iter().flat_map(|format| {
        let reads = format.reads.iter().flat_map(|signature| [&signature.ending, &signature.magic]);
        [&format.id, &format.summary].into_iter().chain(&format.levels).chain(reads).chain(&format.loaders)
    });
    let of_transcodings = transcodes.iter().flat_map(|transcoding| [&transcoding.from, &transcoding.to]);
    own.into_iter().chain(of_formats).chain(of_transcodings).map(String::as_str)
}

fn check_versions(manifest: Manifest) -> Result<Manifest, Unreadable> {
    let bad = |reason: String| Unreadable::BadManifest(reason);
    if let Some(text) = texts(&manifest).find(|text| text.contains(char::is_control)) {
        return Err(bad(format!("the text `{}` has control characters", text.escape_debug())));
    }
    for (what, id) in
        std::iter::once(("id", &manifest.id)).chain(manifest.formats.iter().map(|format| ("format", &format.id)))
    {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > 64 || !id.bytes().all(plain) {
            return Err(bad(format!("the {what} `{}` is not made of a-z, 0-9 and hyphens", id.escape_debug())));
        }
    }
    if manifest.formats.is_empty() && manifest.transcodes.is_empty() {
        return Err(bad("it names no format, and transcodes nothing".into()));
    }
    Version::parse(&manifest.version).map_err(|error| bad(format!("version: {error}")))?;
    let wanted = VersionReq::parse(&manifest.api).map_err(|error| bad(format!("api: {error}")))?;
    let offered = Version::parse(API_VERSION).map_err(|error| bad(format!("the host's own API version: {error}")))?;
    let reason = if manifest.abi != ABI_TAG {
        format!("built for the binary interface {}, this qhost speaks {ABI_TAG}", manifest.abi.escape_debug())
    } else if !wanted.matches(&offered) {
        format!("built for plugin API {wanted}, this qhost speaks {offered}")
    } else {
        return Ok(manifest);
    };
    Err(Unreadable::Incompatible { reason, manifest: Box::new(manifest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = r#"{"schema":"qhost.manifest/1","id":"x","version":"1.0.0","abi":"abi_stable-0.11","api":"^1.0",
            "summary":"s","formats":[{"id":"x","summary":"s","levels":["a","b"]}]}"#;
        Manifest::from_json(text).unwrap()
    }

    #[test]
    fn control_characters_are_refused_in_every_text() {
        assert!(check_versions(manifest()).is_ok());
        let spoils: [fn(&mut Manifest); 5] = [
            |manifest| manifest.summary.push('\u{1b}'),
            |manifest| manifest.homepage.push('\n'),
            |manifest| manifest.license.push('\u{7f}'),
            |manifest| manifest.formats[0].summary.push('\u{9b}'),
            |manifest| manifest.formats[0].levels[1].push('\r'),
        ];
        for spoil in spoils {
            let mut manifest = manifest();
            spoil(&mut manifest);
            let error = check_versions(manifest).unwrap_err().to_string();
            assert!(error.contains("control characters") && !error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn universal_files_are_named_as_such() {
        // Magic, one architecture: x86-64 at 4096.
        let header = [0xcafe_babe_u32, 1, 0x0100_0007, 3, 4096, 16, 12].map(u32::to_be_bytes).concat();
        assert!(matches!(parse(&header), Err(Unreadable::Universal)));
    }
}
