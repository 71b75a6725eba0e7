//! Files on this machine: text as it is, JSON lines, and columns.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    Error,
    documents::{Collector, Documents, Limits, Written},
    error::Place,
    parquet,
};

/// The longest line that is read: a book is a few million bytes.
const LONGEST_LINE: u64 = 256 << 20;
/// Endings of files that are packed, and what they are.
const PACKED: [(&str, &str); 5] = [
    ("gz", "packed by gzip"),
    ("zst", "packed by zstd"),
    ("xz", "packed by xz"),
    ("bz2", "packed by bzip2"),
    ("zip", "an archive"),
];

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Lines,
    Columns,
}

impl Form {
    /// The form of a file of that name; other endings than these are text.
    pub(super) fn of(path: &Path) -> Self {
        let ending = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("jsonl" | "ndjson" | "json") => Self::Lines,
            Some("parquet") => Self::Columns,
            _ => Self::Text,
        }
    }
}

/// The contents of a data set, and whether there is more in it than was taken.
pub(super) struct Contents {
    pub(super) documents: Documents,
    pub(super) cut: bool,
}

/// Reads files that are all of the same form, one after the other.
pub(super) fn read(paths: &[PathBuf], limits: Limits) -> Result<Contents, Error> {
    let form = paths.first().map_or(Form::Text, |path| Form::of(path));
    let mut collector = Collector::new(limits);
    let mut text = String::new();
    for path in paths {
        let more = match form {
            Form::Text => read_text(path, &mut text, limits.bytes)?,
            Form::Lines => read_lines(path, &mut collector)?,
            Form::Columns => parquet::read(path, &mut collector)?,
        };
        if !more {
            collector.cut = true;
            break;
        }
    }
    let cut = collector.cut;
    let documents = match form {
        Form::Text => Documents::Text(text),
        Form::Lines if !limits.joins => collector.finish(),
        Form::Lines | Form::Columns => collector.joined(),
    };
    Ok(Contents { documents, cut })
}

/// Reads a text behind another, and tells whether all of it fitted.
fn read_text(path: &Path, text: &mut String, limit: usize) -> Result<bool, Error> {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    if let Some((_, form)) = PACKED.iter().find(|(packed, _)| *packed == ending) {
        return Err(Error::ForeignFile { path: path.to_owned(), form });
    }
    let file = File::open(path).map_err(Error::unreadable(path))?;
    let room = limit.saturating_sub(text.len());
    let mut bytes = Vec::new();
    // One character more tells whether there is more.
    file.take((room as u64).saturating_add(4)).read_to_end(&mut bytes).map_err(Error::unreadable(path))?;
    let whole = bytes.len() <= room;
    let read = match std::str::from_utf8(&bytes) {
        Ok(read) => read,
        // The last character was cut.
        Err(error) if !whole && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => return Err(Error::NotUtf8 { path: path.to_owned(), at: error.valid_up_to() }),
    };
    let mut end = read.len().min(room);
    while !read.is_char_boundary(end) {
        end -= 1;
    }
    let read = &read[..end];
    text.push_str(read);
    Ok(whole)
}

/// Reads JSON lines, and tells whether more are wanted.
fn read_lines(path: &Path, collector: &mut Collector) -> Result<bool, Error> {
    let mut file = BufReader::new(File::open(path).map_err(Error::unreadable(path))?);
    let mut line = Vec::new();
    for row in 1.. {
        line.clear();
        let read = (&mut file).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(Error::unreadable(path))?;
        if read == 0 {
            break;
        }
        let bad = |reason: String| Error::BadRow { place: Place { path: path.to_owned(), row }, reason };
        if read as u64 == LONGEST_LINE && line.last() != Some(&b'\n') {
            return Err(bad(format!("the line is longer than {} MiB", LONGEST_LINE >> 20)));
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        if blank {
            continue;
        }
        let written: Written = serde_json::from_slice(&line).map_err(|error| bad(in_a_line(&error)))?;
        if !collector.take(path, row, written)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The words of an error in JSON with its column alone, for the line is the file's.
fn in_a_line(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.rsplit_once(" at line ") {
        Some((words, _)) => format!("{words} (column {})", error.column()),
        None => words,
    }
}
