//! A target: a reader, what it has to do with any bytes at all, and how that is tried.

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::{Random, allocation::peak_of, mutation::mutate};

/// What a reader makes of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// It is what it should be, and was read to its end.
    Whole,
    /// It was refused.
    Refused,
}

/// How an input is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// Texts, most of them JSON, with [`SEPARATOR`](crate::SEPARATOR) between them.
    Files,
    /// Lines of JSON.
    Lines,
    /// Lines of JSON, each behind its XXH3-64 in hexadecimal and a space.
    Checksummed,
    /// A safetensors file.
    Weights,
    /// Two texts of JSON and a safetensors file, with [`SEPARATOR`](crate::SEPARATOR) between them.
    Folder,
}

/// A reader that has to stand any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its folder of regressions, and of its fuzzer.
    pub name: &'static str,
    /// How its inputs are built.
    pub form: Form,
    /// Reads bytes; it panics where what was read contradicts itself.
    pub read: fn(&[u8]) -> Read,
    /// Inputs that are read whole.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The most memory that an input of no bytes may take.
    pub memory: usize,
    /// The most bytes of memory for each byte of the input beyond that.
    pub memory_per_byte: usize,
    /// Changed inputs that an ordinary test tries.
    pub changes: u64,
}

impl Target {
    /// Reads bytes, within the memory that is granted.
    ///
    /// # Panics
    /// Panics where the reader does, or takes more memory than the length of the input allows.
    pub fn run(&self, bytes: &[u8]) -> Read {
        let (read, peak) = peak_of(|| (self.read)(bytes));
        let most = bytes.len().saturating_mul(self.memory_per_byte).saturating_add(self.memory);
        assert!(peak <= most, "{} took {peak} bytes for an input of {}, {most} are granted", self.name, bytes.len());
        read
    }

    /// The folder of inputs that once failed.
    #[must_use]
    pub fn regressions(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(self.name)
    }

    /// Reads the seeds, every input that once failed, and changed inputs, drawn by a fixed seed.
    ///
    /// # Panics
    /// Panics when a seed is not read whole, and when an input fails: it is kept then, and the message names its file.
    pub fn try_all(&self) {
        without_traces();
        let seeds = (self.seeds)();
        for (index, seed) in seeds.iter().enumerate() {
            assert_eq!(self.kept(seed), Read::Whole, "{}: seed {index} is refused: nothing is tested", self.name);
        }
        for file in files_in(&self.regressions()) {
            let bytes = fs::read(&file).unwrap_or_default();
            assert!(!bytes.is_empty(), "{} is empty", file.display());
            self.kept(&bytes);
        }
        let mut random = Random::new(xxh3_64(self.name.as_bytes()));
        for _ in 0..self.changes {
            let (Some(seed), Some(other)) = (random.one(&seeds).cloned(), random.one(&seeds).cloned()) else { return };
            self.kept(&mutate(self.form, &seed, &other, &mut random));
        }
    }

    /// Reads bytes, and keeps them in a file if that fails.
    fn kept(&self, bytes: &[u8]) -> Read {
        panic::catch_unwind(AssertUnwindSafe(|| self.run(bytes))).unwrap_or_else(|payload| {
            let name = format!("qhost-fuzz-{}-{:016x}", self.name, xxh3_64(bytes));
            let file = std::env::temp_dir().join(name);
            let kept = fs::write(&file, bytes).map_or_else(|error| error.to_string(), |()| file.display().to_string());
            let words = payload.downcast_ref::<String>().cloned();
            let words = words.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
            assert!(words.is_none(), "{}\nthe input is kept: {kept}", words.unwrap_or_default());
            panic::resume_unwind(payload)
        })
    }
}

/// Has panics tell where they were and no more: a trace of the calls takes a hundred megabytes, also of a panic that is
/// caught and told as an error.
#[expect(clippy::print_stderr, reason = "as the hook that it replaces")]
pub fn without_traces() {
    panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

/// The files of a folder in the order of their names; none if there is no folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(read: fn(&[u8]) -> Read) -> Target {
        let seeds = || vec![b"seed".to_vec()];
        Target { name: "none", form: Form::Bytes, read, seeds, memory: 1000, memory_per_byte: 10, changes: 2000 }
    }

    fn fails(target: &Target) -> bool {
        panic::catch_unwind(|| target.try_all()).is_err()
    }

    #[test]
    fn a_reader_that_is_sound_passes_and_others_do_not() {
        assert!(!fails(&target(|_| Read::Whole)));
        assert!(fails(&target(|_| Read::Refused)), "a seed that is refused tests nothing");
        let panics = |bytes: &[u8]| {
            assert_ne!(bytes.get(1), Some(&0xff), "a byte that no seed has");
            Read::Whole
        };
        assert!(fails(&target(panics)));
        let greedy = |bytes: &[u8]| {
            drop(vec![0_u8; if bytes.len() < 4 { 1100 } else { 1000 }]);
            Read::Whole
        };
        assert!(fails(&target(greedy)));
    }
}
