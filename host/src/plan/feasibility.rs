//! Holding a plan against the machine.

use std::path::PathBuf;

use super::{Error, RunPlan};

/// Room for the journal and the report beside the planned files.
const ASIDE: u64 = 1 << 20;

/// What is so on this machine, gathered by others.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where the output will be.
    pub output: PathBuf,
    /// Whether something is there.
    pub exists: bool,
    /// Whether it may be replaced.
    pub force: bool,
    /// Whether it lies within the source's folder.
    pub inside_source: bool,
    /// Bytes free on its disk, if that can be told.
    pub free: Option<u64>,
    /// Bytes of it that an earlier run has reserved already.
    pub reserved: u64,
    /// The memory ceiling.
    pub memory_limit: Option<u64>,
}

/// Refuses what cannot work with so many threads.
///
/// # Errors
/// Fails with the first reason found.
pub fn refuse_impossible(plan: &RunPlan, threads: u32, facts: &Facts) -> Result<(), Error> {
    let path = || facts.output.clone();
    if facts.inside_source {
        return Err(Error::InsideSource { path: path() });
    }
    if facts.exists && !facts.force {
        return Err(Error::Exists { path: path() });
    }
    let needed = plan.file_bytes.saturating_sub(facts.reserved).saturating_add(ASIDE);
    if let Some(free) = facts.free.filter(|&free| free < needed) {
        return Err(Error::DiskTooSmall { path: path(), needed, free });
    }
    let memory = plan.working_memory(threads);
    match facts.memory_limit.filter(|&limit| limit < memory) {
        Some(limit) => Err(Error::MemoryTooSmall { needed: memory, limit }),
        None => Ok(()),
    }
}
