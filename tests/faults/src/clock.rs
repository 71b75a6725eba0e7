//! A clock of the day that jumps: ten years ahead, back before 1970, and to where it was.
//!
//! The kernel is not asked for the time by a call, so this is done by the name of the C library's function. The clock that
//! never goes back is left as it is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Seconds by which one look at the clock is off, the next one, and so on.
const JUMPS: [i64; 5] = [0, 315_360_000, -3_000_000_000, 0, -86_400];

static DISTURBED: AtomicBool = AtomicBool::new(false);
static LOOKS: AtomicUsize = AtomicUsize::new(0);

/// From now on the clock jumps with every look.
pub(crate) fn disturb() {
    DISTURBED.store(true, Ordering::Relaxed);
}

/// Stands in the place of the C library's function.
///
/// # Safety
/// As that one: `time` is to be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's pointer goes on to the system, which answers a bad one with an error.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && clock == libc::CLOCK_REALTIME && DISTURBED.load(Ordering::Relaxed) {
        let jump = JUMPS[LOOKS.fetch_add(1, Ordering::Relaxed) % JUMPS.len()];
        // SAFETY: the system has just written there.
        unsafe { (*time).tv_sec += jump };
    }
    if result == 0 { 0 } else { -1 }
}
