//! How much memory this process uses.
//!
//! It knows the system's counters only, and those of Linux alone; elsewhere every figure is zero.

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
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        Self {
            resident: field("VmRSS").unwrap_or(0),
            anonymous: field("RssAnon").unwrap_or(0),
            peak_resident: field("VmHWM").unwrap_or(0),
        }
    }

    /// Asks the system.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn now() -> Self {
        Self::default()
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
}
