//! How much memory a call takes: an allocator that counts, for each thread by itself.
#![expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one passes everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// Bytes that this thread has taken and not given back; negative where it frees what others took.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most of them since it was last looked at.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // A thread that is ending has no cells any more, and nobody asks about it.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
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

/// What a call gives, and the most bytes that it held at once on this thread beyond what there was before.
pub(crate) fn peak_of<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let given = call();
    (given, usize::try_from(PEAK.get() - before).unwrap_or(0))
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
        assert!(peak_of(|| ()).1 < 1000);
    }
}
