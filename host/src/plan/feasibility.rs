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

/// What has to be fetched before the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The folder that it is fetched into.
    pub cache: PathBuf,
    /// Bytes that are not there yet.
    pub bytes: u64,
    /// Bytes free on its disk, if that can be told.
    pub free: Option<u64>,
    /// Whether the output will be on the same disk.
    pub same_disk: bool,
}

/// What is so on this machine, gathered by others.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The place of the output.
    pub place: Place,
    /// What has to be fetched first.
    pub download: Option<Download>,
    /// Whether what is there may be replaced.
    pub force: bool,
    /// Bytes of small files that are copied to the output.
    pub companions: u64,
    /// The memory ceiling.
    pub memory_limit: Option<u64>,
    /// Memory that the host takes beside what a plugin asks for.
    pub memory_own: u64,
    /// The most that the process has taken already, to get here.
    pub memory_before: u64,
    /// What the plugin was granted while it planned, if it has to plan again.
    pub memory_planning: u64,
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
    let needed = bytes_needed(plan, facts);
    if let Some(free) = place.free.filter(|&free| free < needed) {
        return Err(Error::DiskTooSmall { path: path(), needed, free });
    }
    refuse_download(facts.download.as_ref(), needed)?;
    let granted = plan.working_memory(threads).max(facts.memory_planning);
    let memory = granted.saturating_add(facts.memory_own).max(facts.memory_before);
    match facts.memory_limit.filter(|&limit| limit < memory) {
        Some(limit) => Err(Error::MemoryTooSmall { needed: memory, limit }),
        None => Ok(()),
    }
}

/// Bytes that a run needs on the disk beyond those that an earlier one has reserved.
#[must_use]
pub fn bytes_needed(plan: &RunPlan, facts: &Facts) -> u64 {
    let limit = plan.plan.survey.as_ref().and_then(|survey| survey.limit);
    let total = plan.file_bytes.max(limit.unwrap_or(0)).saturating_add(facts.companions);
    total.saturating_sub(facts.place.reserved).saturating_add(bytes_beside(plan))
}

/// Refuses a download that does not fit beside outputs of so many bytes.
///
/// # Errors
/// Fails if it does not.
pub fn refuse_download(download: Option<&Download>, output: u64) -> Result<(), Error> {
    let Some(download) = download else { return Ok(()) };
    let beside = if download.same_disk { output } else { 0 };
    match download.free.filter(|&free| free < download.bytes.saturating_add(beside)) {
        Some(free) => Err(Error::CacheTooSmall { path: download.cache.clone(), needed: download.bytes, beside, free }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_has_to_fit_alone_and_beside_the_output() {
        let download = |free, same_disk| Download { cache: "/c".into(), bytes: 100, free, same_disk };
        let refused = |download: &Download| refuse_download(Some(download), 50).is_err();
        assert!(!refused(&download(Some(100), false)) && refused(&download(Some(99), false)));
        assert!(!refused(&download(Some(150), true)) && refused(&download(Some(149), true)));
        assert!(!refused(&download(None, true)));
    }
}
