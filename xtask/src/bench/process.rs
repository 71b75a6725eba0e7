//! What a process took: time on the clock, time on CPUs, and memory.
#![cfg_attr(unix, expect(unsafe_code, reason = "only the system's own call tells what one child used"))]

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// What one run took, or the best of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Seconds from start to end.
    pub(super) wall: f64,
    /// Seconds of all its threads on CPUs, the system's share included.
    pub(super) cpu: f64,
    /// The most bytes that were resident, mapped files included.
    pub(super) resident: f64,
}

impl Usage {
    /// The shortest times of two runs, and the larger memory.
    pub(super) fn or_better(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
            resident: self.resident.max(other.resident),
        }
    }
}

/// Runs a command to its end; gives what it took, and its standard output.
///
/// The system counts memory of this process, from which the command starts, to that of the command: it has to be small.
pub(super) fn measure(command: &mut Command) -> Result<(Usage, String)> {
    let shown = cargo::shown(command);
    let start = Instant::now();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.with_context(|| format!("{shown} cannot be run"))?;
    let mut output = String::new();
    let read = child.stdout.take().context("a pipe is there")?.read_to_string(&mut output);
    let (succeeded, cpu, resident) = wait(&child).with_context(|| format!("{shown} cannot be waited for"))?;
    let wall = start.elapsed().as_secs_f64();
    read.with_context(|| format!("{shown} printed no text"))?;
    if !succeeded {
        bail!("{shown} failed\n{output}");
    }
    Ok((Usage { wall, cpu, resident }, output))
}

/// Waits for the end; whether it was a good one, seconds on CPUs, and bytes of memory.
#[cfg(unix)]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn wait(child: &Child) -> Result<(bool, f64, f64)> {
    let pid = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all fields of the struct are numbers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live for the call. Nobody else has waited for this child, so its number
    // still is its own.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        return Err(std::io::Error::last_os_error().into());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let unit = if cfg!(target_vendor = "apple") { 1.0 } else { 1024.0 };
    let succeeded = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    Ok((succeeded, seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss as f64 * unit))
}

#[cfg(not(unix))]
fn wait(_: &Child) -> Result<(bool, f64, f64)> {
    bail!("what a process takes is measured on Unix alone")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_and_its_failure_is_told() -> Result<()> {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let (usage, output) = measure(&mut shell("echo said; sleep 0.2; exit 0"))?;
        assert_eq!(output, "said\n");
        assert!(usage.wall >= 0.2 && usage.cpu < usage.wall && usage.resident > 1e5, "{usage:?}");
        assert!(measure(&mut shell("exit 3")).is_err());
        assert!(measure(&mut shell("kill -9 $$")).is_err());
        Ok(())
    }

    #[test]
    fn the_better_of_two_has_the_shorter_times_and_the_larger_memory() {
        let (one, other) = (Usage { wall: 1.0, cpu: 4.0, resident: 7.0 }, Usage { wall: 2.0, cpu: 3.0, resident: 6.0 });
        assert_eq!(one.or_better(other), Usage { wall: 1.0, cpu: 3.0, resident: 7.0 });
        assert_eq!(one.or_better(other), other.or_better(one));
    }
}
