//! The record of finished work: one checksummed line per finished unit.
//!
//! A line is `<checksum> <JSON>`, the checksum being the XXH3-64 of the JSON in hexadecimal. Lines
//! are appended and synced one by one, so a kill or a power cut can damage only the last one, and
//! a damaged end is cut off when the journal is opened again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const SCHEMA: &str = "qhost.journal/1";

/// The first record: whose work this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// Always `qhost.journal/1`.
    pub(super) schema: String,
    /// The key of the plan; see [`RunPlan::key`](crate::plan::RunPlan::key).
    pub(super) key: String,
    /// The host's version.
    pub(super) host: String,
    /// The plugin and its version.
    pub(super) plugin: String,
    /// Digest of the plugin's library.
    pub(super) plugin_sha256: String,
    /// Digest of the source.
    pub(super) source: String,
}

impl Start {
    /// A first record.
    #[must_use]
    pub(super) fn new(key: String, plugin: String, plugin_sha256: String, source: String) -> Self {
        let host = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA.to_owned(), key, host, plugin, plugin_sha256, source }
    }

    /// Why work under `self` cannot be continued as `other`, in words for the user.
    #[must_use]
    pub(super) fn difference(&self, other: &Self) -> &'static str {
        if self.source != other.source {
            "the model has changed since"
        } else if self.plugin_sha256 != other.plugin_sha256 {
            "the plugin has changed since"
        } else {
            "it was made with other options"
        }
    }
}

/// The digest of a segment's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentDigest {
    /// The segment's id.
    pub(super) segment: u32,
    /// XXH3-128 in hexadecimal.
    pub(super) xxh3: String,
}

/// A figure that the plugin told about a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Metric {
    /// The segment's id.
    pub(super) segment: u32,
    /// What it measures.
    pub(super) key: String,
    /// The figure.
    pub(super) value: f64,
}

/// Bytes that the plugin saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedBlob {
    /// The plugin's name for them.
    pub(super) key: String,
    /// The file in the work folder.
    pub(super) file: String,
    /// XXH3-128 of the bytes, in hexadecimal.
    pub(super) xxh3: String,
}

/// A finished unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct UnitRecord {
    /// The unit's id; none stands for the constant segments.
    pub(super) unit: Option<u32>,
    /// What was written.
    pub(super) segments: Vec<SegmentDigest>,
    /// What was measured.
    pub(super) metrics: Vec<Metric>,
    /// What was saved.
    pub(super) saved: Vec<SavedBlob>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    Start(Start),
    Unit(UnitRecord),
    Survey(UnitRecord),
    Complete,
}

/// What a journal tells.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// Whose work it is, if the first line is whole.
    pub(super) start: Option<Start>,
    /// Finished units.
    pub(super) units: Vec<UnitRecord>,
    /// Units that were measured for a plan.
    pub(super) surveyed: Vec<UnitRecord>,
    /// Whether the output was finished and checked; only the last step is missing.
    pub(super) complete: bool,
}

impl Contents {
    /// Reads a journal without changing it; a missing or damaged one is empty.
    #[must_use]
    pub(super) fn peek(path: &Path) -> Self {
        std::fs::read(path).map_or_else(|_| Self::default(), |bytes| parse(&bytes).0)
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Start(start) => self.start = Some(start),
            Record::Unit(unit) => self.units.push(unit),
            Record::Survey(unit) => self.surveyed.push(unit),
            Record::Complete => self.complete = true,
        }
    }
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// What it tells so far.
    pub(super) contents: Contents,
}

impl Journal {
    /// Opens the journal, making an empty one if there is none, and cuts off a damaged end.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (contents, sound) = parse(&bytes);
        file.set_len(sound)?;
        file.seek(SeekFrom::Start(sound))?;
        Ok(Self { path: path.to_owned(), file, contents })
    }

    /// Starts the journal of new work; it has to be empty.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn begin(&mut self, start: Start) -> io::Result<()> {
        self.append(Record::Start(start))
    }

    /// Records a finished unit; when this returns, it is on the disk.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn finish_unit(&mut self, unit: UnitRecord) -> io::Result<()> {
        self.append(Record::Unit(unit))
    }

    /// Records a unit that was measured for a plan; when this returns, it is on the disk.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn finish_survey_of(&mut self, unit: UnitRecord) -> io::Result<()> {
        self.append(Record::Survey(unit))
    }

    /// Records that the output is finished and checked.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.append(Record::Complete)
    }

    /// Where it is.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn append(&mut self, record: Record) -> io::Result<()> {
        let json = serde_json::to_string(&record)?;
        self.file.write_all(format!("{:016x} {json}\n", xxh3_64(json.as_bytes())).as_bytes())?;
        self.file.sync_data()?;
        self.contents.add(record);
        Ok(())
    }
}

/// The part of a journal's bytes that a run goes on from: the whole lines before the first that is damaged, or none where
/// the first does not say whose work it is.
#[must_use]
pub fn sound_part_of_journal(bytes: &[u8]) -> &[u8] {
    let (_, sound) = parse(bytes);
    &bytes[..usize::try_from(sound).unwrap_or(bytes.len()).min(bytes.len())]
}

/// What the lines before the first damaged one tell, and their length.
fn parse(bytes: &[u8]) -> (Contents, u64) {
    let mut contents = Contents::default();
    let mut sound = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(record) = parse_line(line) else { break };
        // A journal starts with its start; anything else is not one.
        if contents.start.is_none() && !matches!(record, Record::Start(_)) {
            break;
        }
        sound += line.len() as u64;
        contents.add(record);
    }
    (contents, sound)
}

fn parse_line(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (checksum, json) = line.split_once(' ')?;
    if u64::from_str_radix(checksum, 16).ok()? != xxh3_64(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start::new("key".into(), "plugin 1.0.0".into(), "hash".into(), "source".into())
    }

    fn unit(id: u32) -> UnitRecord {
        UnitRecord {
            unit: Some(id),
            segments: vec![SegmentDigest { segment: id * 2, xxh3: "00".into() }],
            metrics: vec![Metric { segment: id * 2, key: "error".into(), value: 0.25 }],
            saved: vec![SavedBlob { key: "state".into(), file: format!("{id}"), xxh3: "11".into() }],
        }
    }

    fn lines_in(bytes: &[u8]) -> usize {
        bytes.split(|&byte| byte == b'\n').count() - 1
    }

    fn written(path: &Path) {
        let mut journal = Journal::open(path).unwrap();
        journal.begin(start()).unwrap();
        journal.finish_survey_of(unit(7)).unwrap();
        for id in 0..3 {
            journal.finish_unit(unit(id)).unwrap();
        }
        journal.finish().unwrap();
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        written(&path);
        let journal = Journal::open(&path).unwrap();
        let units = vec![unit(0), unit(1), unit(2)];
        let expected = Contents { start: Some(start()), units, surveyed: vec![unit(7)], complete: true };
        assert_eq!(journal.contents, expected);
        assert_eq!(Contents::peek(&path), expected);
    }

    #[test]
    fn a_cut_at_every_byte_leaves_the_whole_records_before_it_and_room_to_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let lines = lines_in(&whole[..length]);
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.contents.start.is_some(), lines > 0, "cut at {length}");
            assert_eq!(journal.contents.units.len(), lines.saturating_sub(2).min(3), "cut at {length}");
            assert!(!journal.contents.complete);
            if lines > 0 {
                journal.finish_unit(unit(9)).unwrap();
                let again = Journal::open(&path).unwrap();
                assert_eq!(again.contents.units.last(), Some(&unit(9)), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_before_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        let second_line = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for at in second_line..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let before = lines_in(&whole[..at]);
            let journal = Journal::open(&path).unwrap();
            assert_eq!(journal.contents.units.len(), before.saturating_sub(2).min(3), "flipped at {at}");
        }
    }
}
