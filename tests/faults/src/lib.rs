//! Makes the system refuse, shorten or interrupt a process's calls, as a test asks for.
//!
//! It is loaded into the process before its own libraries (`LD_PRELOAD`). Every call that changes what lies below a folder
//! is counted and written down, and those that are chosen fail, are done by half, or end the process. It is the kernel that
//! sends them here (seccomp), so that none goes past, whoever makes it: not all of them come from the C library.
//!
//! It knows nothing of what the process does. Elsewhere than on Linux on x86-64 it is empty.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(unsafe_code, reason = "it stands between a process and its system")]

mod calls;
mod clock;
mod plan;
mod trap;

use std::{fs::OpenOptions, os::fd::IntoRawFd, sync::OnceLock};

use plan::Plan;

/// What was asked for; nothing, in a process that is not watched.
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Runs before the process's own `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    let text = |name: &str| std::env::var(name).ok();
    if text("QHOST_FAULT_CLOCK").is_some() {
        clock::disturb();
    }
    let Some(folder) = text("QHOST_FAULT_FOLDER") else { return };
    let log = text("QHOST_FAULT_LOG").and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
    let fault = text("QHOST_FAULT").map(|text| plan::Fault::parse(&text));
    if matches!(fault, Some(None)) {
        // Whatever is wrong with the request must not look like a run without faults.
        std::process::abort();
    }
    let _ = PLAN.set(Plan::new(folder, log.map(IntoRawFd::into_raw_fd), fault.flatten()));
    if trap::set().is_err() {
        std::process::abort();
    }
}
