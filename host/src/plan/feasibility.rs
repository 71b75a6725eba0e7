//! Holding a plan against the machine.

use std::path::PathBuf;

use super::{Error, RunPlan};

/// Room for the journal, the report and the model card beside the planned files: so much for a run, and for
/// each of its segments.
const BESIDE: (u64, u64) = (64 << 10, 1 << 10);

/// Bytes that a run needs on the disk beside the planned files.
#[must_use]
pub fn bytes_beside(plan: &RunPlan) -> u64 {
    BESIDE.0 + BESIDE.1 * plan.plan.segments.len() as u64
}

/// What is so at the place of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where the output will be.
    pub output: PathBuf,
    /// Whether something is there.
    pub exists: bool,
    /// Whether what is there is a folder in the place of a file, or the other way round.
    pub other_kind: bool,
    /// Whether the output lies within the source's folder.
    pub inside_source: bool,
    /// Something that qhost has not made, in the place of the work folder or in it.
    pub foreign: Option<PathBuf>,
    /// Bytes free on its disk, if that can be told.
    pub free: Option<u64>,
    /// Bytes of it that an earlier run has reserved already.
    pub reserved: u64,
}

/// What is so on this machine, gathered by others.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The place of the output.
    pub place: Place,
    /// Whether what is there may be replaced.
    pub force: bool,
    /// Bytes of small files that are copied to the output.
    pub companions: u64,
    /// The memory ceiling.
    pub memory_limit: Option<u64>,
    /// Memory that the host takes beside what a plugin asks for.
    pub memory_own: u64,
}

/// Refuses what cannot work with so many threads.
///
/// # Errors
/// Fails with the first reason found.
pub fn refuse_impossible(plan: &RunPlan, threads: u32, facts: &Facts) -> Result<(), Error> {
    let place = &facts.place;
    let path = || place.output.clone();
    if place.inside_source {
        return Err(Error::InsideSource { path: path() });
    }
    if place.exists && place.other_kind {
        return Err(Error::OtherKind { path: path() });
    }
    if place.exists && !facts.force {
        return Err(Error::Exists { path: path() });
    }
    if let Some(path) = &place.foreign {
        return Err(Error::Foreign { path: path.clone() });
    }
    let total = plan.file_bytes.saturating_add(facts.companions);
    let needed = total.saturating_sub(place.reserved).saturating_add(bytes_beside(plan));
    if let Some(free) = place.free.filter(|&free| free < needed) {
        return Err(Error::DiskTooSmall { path: path(), needed, free });
    }
    let memory = plan.working_memory(threads).saturating_add(facts.memory_own);
    match facts.memory_limit.filter(|&limit| limit < memory) {
        Some(limit) => Err(Error::MemoryTooSmall { needed: memory, limit }),
        None => Ok(()),
    }
}
