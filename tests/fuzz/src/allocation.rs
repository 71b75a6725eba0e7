//! How much memory a call takes: an allocator that counts, whichever thread asks.
#![expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one passes everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicIsize, Ordering},
    },
};

/// Bytes that are taken and not given back.
static HELD: AtomicIsize = AtomicIsize::new(0);
/// The most of them since a call began.
static PEAK: AtomicIsize = AtomicIsize::new(0);
/// Calls are counted one after the other.
static ONE: Mutex<()> = Mutex::new(());

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(held, Ordering::Relaxed);
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Both are there while the contents move.
        count(signed(bytes));
        count(-signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// What a call gives, and the most bytes that were held at once beyond what there was before.
pub(crate) fn peak_of<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let given = call();
    (given, usize::try_from(PEAK.load(Ordering::Relaxed) - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::peak_of;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let (kept, peak) = peak_of(|| {
            drop(vec![1_u8; 5_000_000]);
            vec![0_u8; 1_000_000]
        });
        assert!((5_000_000..5_100_000).contains(&peak), "{peak} for {}", kept.len());
        let on_a_thread = peak_of(|| std::thread::spawn(|| drop(vec![1_u8; 3_000_000])).join().is_ok());
        assert!(on_a_thread.0 && on_a_thread.1 >= 3_000_000, "{on_a_thread:?}");
        assert!(peak_of(|| ()).1 < 100_000);
    }
}
