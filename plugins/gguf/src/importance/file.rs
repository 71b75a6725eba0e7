//! An importance matrix that is read: both forms of `llama-imatrix`, for `llama-quantize`'s option of that name.
//!
//! In the form of GGUF every matrix `NAME` has the sums of squares of its columns (`NAME.in_sum2`), a row for each expert,
//! and numbers of tokens (`NAME.counts`), by which they are divided; without a token every column has a one. In the older
//! form (`.dat`) an entry is a name, a divisor and values for all experts one after the other; then come the number of
//! chunks and the data's name. Nothing of the file is trusted: lengths are held against the bytes that are there, and every
//! value has to be a finite number. Values are read when a unit needs them. It knows names; which tensors there are is told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use qhost_plugin_api::sdk::{Failure, FilesHandle, IMATRIX_FILE, Result};

use super::Gathered;
use crate::{
    cursor::Cursor,
    header::{self, Header},
    metadata::{Array, Value},
    write::MAGIC,
};

/// The most bytes of a header that are tried.
const MOST_HEADER: u64 = 64 << 20;
/// The bytes of a header that are tried first.
const FIRST_HEADER: u64 = 1 << 20;
/// The longest name of a tensor in the older form.
const LONGEST_NAME: u32 = 4096;
/// The shortest entry there: a length of its name, a divisor, a count.
const SHORTEST_ENTRY: u64 = 12;
/// Values that are looked at together.
const PIECE: usize = 1 << 16;

/// A file, of which the places of its entries are known.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    files: FilesHandle,
    entries: BTreeMap<String, Entry>,
    /// The name of the data that it was made from, if it tells.
    pub(crate) dataset: Option<String>,
    /// The number of chunks of that data, if it tells.
    pub(crate) chunks: Option<u32>,
}

/// Where the numbers of a tensor are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// Sums, and a count for each of their rows.
    Sums { sums: u64, rows: u64, columns: u64, counts: u64 },
    /// Values, and what they are divided by.
    Values { values: u64, count: u64, divisor: u32 },
}

impl Entry {
    fn values(&self) -> u64 {
        match self {
            Self::Sums { rows, columns, .. } => rows * columns,
            Self::Values { count, .. } => *count,
        }
    }
}

impl Matrix {
    /// Reads where the entries are, and that all of their values are finite numbers; the user knows it as `file`.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` for a file that is neither form, is cut short, or has other values.
    pub(crate) fn open(files: &FilesHandle, file: &str) -> Result<Self> {
        let in_file = |failure: Failure| in_file(file, failure);
        let length =
            files.length(IMATRIX_FILE).ok_or_else(|| Failure::internal("the host lends no file for --imatrix"))?;
        let mut start = [0; 4];
        let named = length >= 4 && {
            files.read_exact(IMATRIX_FILE, 0, &mut start)?;
            start == MAGIC
        };
        let read = if named { Self::of_gguf(files, length) } else { Self::of_dat(files, length) };
        let matrix = read.map_err(in_file)?;
        if matrix.entries.is_empty() {
            return Err(in_file(Failure::corrupt("it has no entries")));
        }
        matrix.check().map_err(in_file)?;
        Ok(matrix)
    }

    fn of_gguf(files: &FilesHandle, length: u64) -> Result<Self> {
        let header = gguf_header(files, length)?;
        header.check_places(length)?;
        let mut entries = BTreeMap::new();
        let by_name: HashMap<&str, _> = header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for tensor in &header.tensors {
            let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
            let wrong = |what: &str| Failure::corrupt(what).about(&*tensor.name);
            let of_counts = by_name.get(&*format!("{name}.counts")).ok_or_else(|| wrong("it has no counts"))?;
            if tensor.ggml_type.name != "F32" || of_counts.ggml_type.name != "F32" {
                return Err(wrong("it is no tensor of 32-bit floats"));
            }
            let elements = |dimensions: &[u64]| dimensions.iter().product::<u64>();
            let (columns, rows) = (tensor.dimensions.first().copied().unwrap_or(1), elements(&of_counts.dimensions));
            if columns == 0 || rows == 0 || columns.checked_mul(rows) != Some(elements(&tensor.dimensions)) {
                return Err(wrong("it has another number of rows than of counts"));
            }
            let [sums, counts] = [tensor, *of_counts].map(|tensor| header.data_start + tensor.offset);
            entries.insert(name.to_owned(), Entry::Sums { sums, rows, columns, counts });
        }
        let dataset = match header.metadata.get("imatrix.datasets") {
            Some(Value::Array(Array::String(names))) => names.first().cloned(),
            _ => None,
        };
        let chunks = header.metadata.get("imatrix.chunk_count").and_then(Value::as_u64);
        let chunks = chunks.and_then(|chunks| u32::try_from(chunks).ok()).filter(|chunks| *chunks > 0);
        Ok(Self { files: files.clone(), entries, dataset, chunks })
    }

    fn of_dat(files: &FilesHandle, length: u64) -> Result<Self> {
        let neither = || {
            Failure::corrupt("it is no importance matrix, of neither form")
                .hint("--imatrix takes what llama-imatrix writes, .gguf or .dat")
        };
        let mut reader = Reader { files, position: 0, length };
        let count = reader.u32().map_err(|_| neither())?;
        if count == 0 || u64::from(count) > length / SHORTEST_ENTRY {
            return Err(neither());
        }
        let mut entries = BTreeMap::new();
        for index in 0..count {
            let longest = |length: &u32| (1..=LONGEST_NAME).contains(length);
            let name_bytes = reader.u32().ok().filter(longest).ok_or_else(|| match index {
                0 => neither(),
                _ => Failure::corrupt(format!("entry {index} of {count} has no name")),
            })?;
            let name = reader.text(name_bytes.into())?;
            let (divisor, values) = (reader.u32()?, reader.u32()?);
            let place = reader.position;
            reader.skip(u64::from(values) * 4).map_err(|failure| failure.about(&*name))?;
            if values == 0 || divisor > i32::MAX as u32 {
                return Err(Failure::corrupt("it has no values, or an impossible divisor").about(name));
            }
            let entry = Entry::Values { values: place, count: values.into(), divisor };
            if entries.insert(name.clone(), entry).is_some() {
                return Err(Failure::corrupt("it is there twice").about(name));
            }
        }
        let (mut dataset, mut chunks) = (None, None);
        if reader.left() > 0 {
            chunks = Some(reader.u32()?).filter(|chunks| *chunks > 0);
            let name_bytes = reader.u32()?;
            dataset = Some(reader.text(name_bytes.into())?).filter(|name| !name.is_empty());
        }
        Ok(Self { files: files.clone(), entries, dataset, chunks })
    }

    fn check(&self) -> Result<()> {
        let mut piece = vec![0_u8; PIECE * 4];
        for (name, entry) in &self.entries {
            let (start, count) = match entry {
                Entry::Sums { sums, rows, columns, .. } => (*sums, rows * columns),
                Entry::Values { values, count, .. } => (*values, *count),
            };
            let mut done = 0;
            while done < count {
                let now = (count - done).min(PIECE as u64);
                let bytes = &mut piece[..in_memory(now)? * 4];
                self.files.read_exact(IMATRIX_FILE, start + done * 4, bytes)?;
                if floats(bytes).any(|value| !value.is_finite()) {
                    return Err(Failure::corrupt("a value of it is no finite number").about(&**name));
                }
                done += now;
            }
        }
        Ok(())
    }

    /// Keeps the entries whose names have one of these in them, if there are any, and none that has one of those.
    pub(crate) fn keep(&mut self, included: &[String], excluded: &[String]) {
        let has = |name: &str, parts: &[String]| parts.iter().any(|part| name.contains(part.as_str()));
        self.entries.retain(|name, _| (included.is_empty() || has(name, included)) && !has(name, excluded));
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a tensor of so many matrices, each with so many columns, is in the file.
    ///
    /// # Errors
    /// Fails with kind `USAGE` when it is there with another number of values. The reference passes over that for the
    /// embedding alone.
    pub(crate) fn has(&self, name: &str, matrices: u64, columns: u64) -> Result<bool> {
        let Some(values) = self.entries.get(name).map(Entry::values) else { return Ok(false) };
        let expected = matrices.saturating_mul(columns);
        if values == expected || name == "token_embd.weight" {
            return Ok(values == expected);
        }
        Err(Failure::usage(format!("the importance matrix has {values} values for it, and it needs {expected}"))
            .about(name)
            .hint("it was made from another model: make one from this model, or leave --imatrix out"))
    }

    /// The names of its entries.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The importances of a tensor, matrix after matrix.
    ///
    /// # Errors
    /// Fails when the file cannot be read, or has changed.
    pub(crate) fn read(&self, name: &str, matrices: u64, columns: u64) -> Result<Vec<Arc<Gathered>>> {
        let entry =
            self.entries.get(name).ok_or_else(|| Failure::internal("an entry that is not there").about(name))?;
        let numbers = |place: u64, count: u64| -> Result<Vec<f32>> {
            let mut bytes = vec![0; in_memory(count)? * 4];
            self.files.read_exact(IMATRIX_FILE, place, &mut bytes)?;
            Ok(floats(&bytes).collect())
        };
        let mut importances = match entry {
            Entry::Sums { sums, rows, columns, counts } => {
                let mut values = numbers(*sums, rows * columns)?;
                let each = in_memory(*columns)?.max(1);
                for (values, count) in values.chunks_mut(each).zip(numbers(*counts, *rows)?) {
                    for value in values {
                        *value = if count > 0.0 { *value / count } else { 1.0 };
                    }
                }
                values
            }
            Entry::Values { values, count, divisor } => {
                let mut values = numbers(*values, *count)?;
                if *divisor > 0 {
                    #[expect(clippy::cast_precision_loss, reason = "the reference divides by an integer as a float")]
                    for value in &mut values {
                        *value /= *divisor as f32;
                    }
                }
                values
            }
        };
        if matrices.checked_mul(columns) != Some(importances.len() as u64) {
            return Err(Failure::internal("an entry of another size").about(name));
        }
        let mut all = Vec::new();
        for _ in 0..matrices {
            let rest = importances.split_off(in_memory(columns)?);
            all.push(Arc::new(Gathered { sums: Vec::new(), count: 0.0, columns: importances }));
            importances = rest;
        }
        Ok(all)
    }
}

fn in_file(file: &str, failure: Failure) -> Failure {
    let subject = if failure.subject.is_empty() { file.to_owned() } else { format!("{file}: {}", failure.subject) };
    failure.about(subject)
}

fn in_memory(count: u64) -> Result<usize> {
    usize::try_from(count).map_err(|_| Failure::internal("more values than fit into memory"))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw))
}

/// The header, of which it is not known how long it is.
fn gguf_header(files: &FilesHandle, length: u64) -> Result<Header> {
    let mut tried = FIRST_HEADER.min(length);
    loop {
        let mut bytes = vec![0; in_memory(tried)?];
        files.read_exact(IMATRIX_FILE, 0, &mut bytes)?;
        match header::parse(&bytes) {
            Err(_) if tried < length.min(MOST_HEADER) => tried = (tried * 4).min(length).min(MOST_HEADER),
            parsed => return parsed,
        }
    }
}

/// Reads small things from the file, one after the other.
struct Reader<'a> {
    files: &'a FilesHandle,
    position: u64,
    length: u64,
}

impl Reader<'_> {
    fn left(&self) -> u64 {
        self.length - self.position
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.left() {
            let (position, left) = (self.position, self.left());
            return Err(Failure::corrupt(format!("{bytes} bytes are missing at offset {position}, {left} are left"))
                .hint("the download or copy is probably incomplete: fetch the file again"));
        }
        self.position += bytes;
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<Vec<u8>> {
        let start = self.position;
        self.skip(bytes)?;
        let mut taken = vec![0; in_memory(bytes)?];
        self.files.read_exact(IMATRIX_FILE, start, &mut taken)?;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Cursor::new(&bytes).u32()
    }

    fn text(&mut self, bytes: u64) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.take(bytes)?).into_owned())
    }
}
