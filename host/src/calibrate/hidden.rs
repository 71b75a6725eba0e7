//! The hidden states of all samples between two layers: in memory while there is room, else in a file.
//!
//! A snapshot at a layer's border lets an interrupted run go on there.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use xxhash_rust::xxh3::Xxh3;

use super::{Batch, Error};
use crate::stream::{Grant, Ledger, positioned};

/// More than so many bytes are kept in a file even if there is memory: the system caches the file as it can.
pub const MOST_IN_MEMORY: u64 = 1 << 30;

/// The start of a snapshot.
const MAGIC: &[u8; 8] = b"qhost-h1";

/// Hidden states of samples.
#[derive(Debug)]
pub struct HiddenStates {
    width: usize,
    lengths: Vec<usize>,
    /// For each sample the tokens before it.
    starts: Vec<usize>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory { numbers: Vec<f32>, _grant: Grant },
    File { file: File, path: PathBuf },
}

impl HiddenStates {
    /// Room for samples of these lengths; what does not fit into memory goes to a file in `folder`.
    ///
    /// # Errors
    /// Fails when the file cannot be made.
    pub fn new(lengths: Vec<usize>, width: usize, ledger: &Arc<Ledger>, folder: &Path) -> Result<Self, Error> {
        let bytes = bytes_of(&lengths, width);
        let grant = (bytes <= MOST_IN_MEMORY).then(|| ledger.hold(bytes, "hidden states").ok()).flatten();
        match grant {
            Some(grant) => Ok(Self::in_memory(lengths, width, grant)),
            None => Self::in_file(lengths, width, folder),
        }
    }

    /// Room in memory that is granted.
    pub(super) fn in_memory(lengths: Vec<usize>, width: usize, grant: Grant) -> Self {
        let numbers = vec![0.0; lengths.iter().sum::<usize>() * width];
        Self { width, starts: starts(&lengths), lengths, store: Store::Memory { numbers, _grant: grant } }
    }

    /// Room in a file.
    pub(super) fn in_file(lengths: Vec<usize>, width: usize, folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::States { path: folder.to_owned(), source };
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        file.set_len(bytes_of(&lengths, width)).map_err(failed)?;
        Ok(Self { width, starts: starts(&lengths), lengths, store: Store::File { file, path: folder.to_owned() } })
    }

    /// Tokens of each sample.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Numbers of a token.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether they are in a file.
    #[must_use]
    pub fn is_spilled(&self) -> bool {
        matches!(self.store, Store::File { .. })
    }

    fn range(&self, batch: &Batch) -> std::ops::Range<usize> {
        let start = self.starts.get(batch.first).copied().unwrap_or(0) * self.width;
        start..start + batch.tokens() * self.width
    }

    /// The states of a batch, `[tokens, width]`, where they are if they are in memory.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn read(&self, batch: &Batch) -> Result<Cow<'_, [f32]>, Error> {
        self.part(batch, 0, batch.tokens() * self.width)
    }

    /// Some of the numbers of a batch.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn part(&self, batch: &Batch, first: usize, count: usize) -> Result<Cow<'_, [f32]>, Error> {
        let start = self.range(batch).start + first;
        match &self.store {
            Store::Memory { numbers, .. } => Ok(Cow::Borrowed(numbers.get(start..start + count).unwrap_or_default())),
            Store::File { file, path } => {
                let mut numbers = vec![0.0; count];
                let failed = |source| Error::States { path: path.clone(), source };
                let bytes = bytemuck::cast_slice_mut(&mut numbers);
                positioned::read_exact_at(file, start as u64 * 4, bytes).map_err(failed)?;
                Ok(Cow::Owned(numbers))
            }
        }
    }

    /// Puts the states of a batch in their place.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn write(&mut self, batch: &Batch, states: &[f32]) -> Result<(), Error> {
        let range = self.range(batch);
        match &mut self.store {
            Store::Memory { numbers, .. } => {
                numbers[range].copy_from_slice(states);
                Ok(())
            }
            Store::File { file, path } => {
                let failed = |source| Error::States { path: path.clone(), source };
                positioned::write_all_at(file, range.start as u64 * 4, bytes(states)).map_err(failed)
            }
        }
    }

    /// Writes all of them to a file, whole or not at all, and makes it durable.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::States { path: path.to_owned(), source };
        let partial = path.with_extension("partial");
        let file = File::create(&partial).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        self.write_snapshot(&mut out).map_err(|error| match error {
            Error::States { source, .. } => failed(source),
            other => other,
        })?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, path).map_err(failed)
    }

    fn write_snapshot(&self, out: &mut impl Write) -> Result<(), Error> {
        let failed = |source| Error::States { path: PathBuf::new(), source };
        let mut digest = Xxh3::new();
        let mut put = |bytes: &[u8]| {
            digest.update(bytes);
            out.write_all(bytes)
        };
        put(MAGIC).map_err(failed)?;
        let sizes = [self.width, self.lengths.len()].into_iter().chain(self.lengths.iter().copied());
        for size in sizes {
            put(&(size as u64).to_le_bytes()).map_err(failed)?;
        }
        for batch in Batch::cut(&self.lengths) {
            put(bytes(&self.read(&batch)?)).map_err(failed)?;
        }
        let digest = digest.digest();
        out.write_all(&digest.to_le_bytes()).map_err(failed)
    }

    /// Reads a snapshot of states with the same lengths and width; tells whether there is a sound one.
    ///
    /// # Errors
    /// Fails when the states cannot be put in their place.
    pub fn restore(&mut self, path: &Path) -> Result<bool, Error> {
        let Ok(file) = File::open(path) else { return Ok(false) };
        let mut input = Snapshot { input: BufReader::with_capacity(1 << 20, file), digest: Xxh3::new() };
        let mut magic = [0; 8];
        let sizes = [self.width, self.lengths.len()].into_iter().chain(self.lengths.iter().copied());
        let sizes: Vec<u64> = sizes.map(|size| size as u64).collect();
        let same =
            input.take(&mut magic).is_ok() && magic == *MAGIC && sizes.iter().all(|size| input.number() == Some(*size));
        if !same {
            return Ok(false);
        }
        for batch in Batch::cut(&self.lengths.clone()) {
            let mut numbers = vec![0.0; self.range(&batch).len()];
            if input.take(bytemuck::cast_slice_mut(&mut numbers)).is_err() {
                return Ok(false);
            }
            self.write(&batch, &numbers)?;
        }
        let digest = input.digest.digest();
        Ok(input.number() == Some(digest))
    }
}

/// Bytes of states.
pub(super) fn bytes_of(lengths: &[usize], width: usize) -> u64 {
    (lengths.iter().sum::<usize>() * width) as u64 * 4
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    lengths.iter().scan(0, |next, &length| Some(std::mem::replace(next, *next + length))).collect()
}

struct Snapshot<R> {
    input: R,
    digest: Xxh3,
}

impl<R: Read> Snapshot<R> {
    fn take(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(out)?;
        self.digest.update(out);
        Ok(())
    }

    fn number(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.take(&mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// The numbers as they lie in memory: files of hidden states stay on the machine that made them.
fn bytes(numbers: &[f32]) -> &[u8] {
    bytemuck::cast_slice(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(ledger: &Arc<Ledger>, folder: &Path) -> HiddenStates {
        let mut states = HiddenStates::new(vec![3, 2, 4], 2, ledger, folder).unwrap();
        for batch in [Batch { first: 0, lengths: vec![3, 2] }, Batch { first: 2, lengths: vec![4] }] {
            let from = if batch.first == 0 { 0 } else { 200 };
            let numbers: Vec<f32> = (from..).take(batch.tokens() * 2).map(|number: u16| number.into()).collect();
            states.write(&batch, &numbers).unwrap();
        }
        states
    }

    #[test]
    fn what_does_not_fit_goes_to_a_file_and_reads_alike() {
        let folder = tempfile::tempdir().unwrap();
        let roomy = filled(&Arc::new(Ledger::new(None)), folder.path());
        let tight = filled(&Arc::new(Ledger::new(Some(8))), folder.path());
        assert_eq!((roomy.is_spilled(), tight.is_spilled()), (false, true));
        let batch = Batch { first: 1, lengths: vec![2, 4] };
        assert_eq!(roomy.read(&batch).unwrap(), tight.read(&batch).unwrap());
        assert_eq!(roomy.read(&batch).unwrap()[..5], [6.0, 7.0, 8.0, 9.0, 200.0]);
    }

    #[test]
    fn a_snapshot_is_restored_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::new(Some(100)));
        let path = folder.path().join("states");
        let states = filled(&ledger, folder.path());
        states.save(&path).unwrap();
        let mut other = HiddenStates::new(vec![3, 2, 4], 2, &ledger, folder.path()).unwrap();
        assert!(other.restore(&path).unwrap());
        let all = Batch { first: 0, lengths: vec![3, 2, 4] };
        assert_eq!(other.read(&all).unwrap(), states.read(&all).unwrap());
        let mut wrong = HiddenStates::new(vec![3, 2, 3], 2, &ledger, folder.path()).unwrap();
        assert!(!wrong.restore(&path).unwrap());
        let mut damaged = fs::read(&path).unwrap();
        damaged[60] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(!other.restore(&path).unwrap());
        assert!(!other.restore(&folder.path().join("absent")).unwrap());
    }

    #[test]
    fn memory_is_given_back() {
        let ledger = Arc::new(Ledger::new(Some(100)));
        drop(filled(&ledger, Path::new(".")));
        assert!(!filled(&ledger, Path::new(".")).is_spilled());
    }
}
