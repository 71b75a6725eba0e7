//! How much memory this process uses, and those that work for it.
//!
//! It knows the system's counters only, and those of Linux alone; elsewhere every figure is zero. Pages that two processes
//! have mapped count for both.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The process's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now: its own memory, and pages of mapped files.
    pub resident: u64,
    /// Of that, memory of its own (not backed by a file).
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak_resident: u64,
}

impl Memory {
    /// Asks the system.
    #[must_use]
    pub fn now() -> Self {
        let helpers = helpers();
        let figures = helpers.iter().map(|helper| helper.peaked.unwrap_or_else(|| of_process(&helper.id.to_string())));
        figures.fold(of_process("self"), Self::and)
    }

    fn and(self, other: Self) -> Self {
        Self {
            resident: self.resident.saturating_add(other.resident),
            anonymous: self.anonymous.saturating_add(other.anonymous),
            peak_resident: self.peak_resident.saturating_add(other.peak_resident),
        }
    }
}

#[cfg(target_os = "linux")]
fn of_process(id: &str) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Memory {
        resident: field("VmRSS").unwrap_or(0),
        anonymous: field("RssAnon").unwrap_or(0),
        peak_resident: field("VmHWM").unwrap_or(0),
    }
}

#[cfg(not(target_os = "linux"))]
fn of_process(_: &str) -> Memory {
    Memory::default()
}

/// A process that works for this one.
struct Counted {
    id: u32,
    /// What it leaves in the figures when it has ended.
    peaked: Option<Memory>,
}

static HELPERS: Mutex<Vec<Counted>> = Mutex::new(Vec::new());

fn helpers() -> MutexGuard<'static, Vec<Counted>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that works for this one; its memory counts as this one's.
#[derive(Debug)]
pub struct Helper(u32);

impl Helper {
    /// Counts the memory of a process from now on.
    #[must_use]
    pub fn new(id: u32) -> Self {
        helpers().push(Counted { id, peaked: None });
        Self(id)
    }
}

impl Drop for Helper {
    /// The most that it had stays in the figures. It has to be there yet.
    fn drop(&mut self) {
        let peak_resident = of_process(&self.0.to_string()).peak_resident;
        if let Some(helper) = helpers().iter_mut().find(|helper| helper.id == self.0 && helper.peaked.is_none()) {
            helper.peaked = Some(Memory { peak_resident, ..Memory::default() });
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_that_is_touched_shows_in_all_figures() {
        let before = Memory::now();
        let bytes = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = Memory::now();
        assert!(after.anonymous >= before.anonymous + (60 << 20), "{before:?} {after:?}");
        assert!(after.resident >= after.anonymous);
        assert!(after.peak_resident >= after.resident);
        drop(bytes);
    }

    #[test]
    fn a_process_that_works_for_this_one_counts() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let alone = of_process("self");
        let helper = Helper::new(child.id());
        let of_child = of_process(&child.id().to_string());
        assert!(of_child.resident > 0 && Memory::now().resident >= alone.resident / 2 + of_child.resident);
        drop(helper);
        drop(child.stdin.take());
        child.wait().unwrap();
        let peaked = helpers().iter().find(|helper| helper.id == child.id()).and_then(|helper| helper.peaked).unwrap();
        assert!(peaked.peak_resident >= of_child.resident && peaked.resident == 0, "{peaked:?} {of_child:?}");
    }
}
