//! Buffers that a thread keeps between tasks, so that a loop body does not allocate.

use std::cell::Cell;

/// Two buffers of this thread; their contents are left over from earlier uses.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For widened weights.
    pub floats: Vec<f32>,
    /// For a second view of them (dequantised, say).
    pub more_floats: Vec<f32>,
    /// For encoded bytes.
    pub bytes: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Lends this thread's scratch buffers to `body`.
///
/// The buffers are taken out while `body` runs, so a nested call on the same thread (a task that the
/// host's pool runs while `body` waits) gets fresh ones instead of a conflict.
pub fn with_scratch<T>(body: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = body(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}
