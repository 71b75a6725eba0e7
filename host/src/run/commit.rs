//! Making finished units durable while the next one is being made.
//!
//! One thread of its own: it digests what was not digested as it was written, waits for the disk, and only then writes
//! the journal's line.

use std::{
    sync::Arc,
    sync::mpsc::{Receiver, Sender},
};

use qhost_plugin_api::documents::{Plan, SegmentContent};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    Error, Event, Events,
    journal::{Journal, SegmentDigest, UnitRecord},
    unit::Remains,
};
use crate::{
    cancel::CancelFlag,
    write::{Error as WriteError, ReservedFiles},
};

/// What a thread needs for digesting.
pub(super) const BUFFER: usize = 256 << 10;

/// A unit that is written and not yet durable.
#[derive(Debug)]
pub(super) struct Commit {
    /// The unit, or none for the constant segments.
    pub(super) unit: Option<u32>,
    pub(super) name: String,
    pub(super) remains: Remains,
    /// Whoever waits until it is durable.
    pub(super) committed: Option<Sender<()>>,
}

pub(super) struct Committer<'a> {
    pub(super) plan: &'a Plan,
    pub(super) files: &'a ReservedFiles,
    pub(super) journal: &'a mut Journal,
    pub(super) events: &'a Arc<dyn Events>,
    pub(super) cancel: &'a CancelFlag,
}

impl Committer<'_> {
    /// Commits what comes until the sender is gone. After a failure the run is stopped.
    pub(super) fn commit_all(mut self, units: &Receiver<Commit>) -> Result<(), Error> {
        for unit in units {
            if let Err(error) = self.commit(unit) {
                self.cancel.cancel();
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), Error> {
        let Remains { metrics, saved, mut digests } = commit.remains;
        let mut digest = |segment| match digests.remove(&segment) {
            Some(digest) => Ok(digest),
            None => digest(self.files, self.plan, segment),
        };
        let segments = segments_of(self.plan, commit.unit)
            .map(|segment| Ok(SegmentDigest { segment, xxh3: digest(segment)? }))
            .collect::<Result<_, WriteError>>()?;
        self.files.sync()?;
        let record = UnitRecord { unit: commit.unit, segments, metrics, saved };
        let path = self.journal.path().display().to_string();
        self.journal.finish_unit(record).map_err(|source| Error::Journal { path, source })?;
        self.events.emit(Event::UnitCommitted { name: &commit.name });
        // Nobody minds if nobody waits any more.
        let _ = commit.committed.map(|waiting| waiting.send(()));
        Ok(())
    }
}

/// The segments of a unit; of none, the constant ones.
pub(super) fn segments_of(plan: &Plan, unit: Option<u32>) -> impl Iterator<Item = u32> {
    (0..).zip(&plan.segments).filter_map(move |(id, segment)| {
        let of = match &segment.content {
            SegmentContent::Tensor(tensor) => Some(tensor.unit),
            _ => None,
        };
        (of == unit).then_some(id)
    })
}

/// The XXH3-128 of a segment as it is in the file now, in hexadecimal.
pub(super) fn digest(files: &ReservedFiles, plan: &Plan, segment: u32) -> Result<String, WriteError> {
    let segment = &plan.segments[segment as usize];
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; BUFFER];
    let (mut offset, end) = (segment.offset, segment.offset + segment.bytes);
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(BUFFER).min(BUFFER);
        let read = files.read_at(segment.file, offset, &mut buffer[..wanted])?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
    Ok(in_hexadecimal(hasher.digest128()))
}

pub(super) fn in_hexadecimal(digest: u128) -> String {
    format!("{digest:032x}")
}
