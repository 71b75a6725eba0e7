//! Memory that a thread keeps between pieces of work: fresh pages cost as much as the arithmetic on them.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// `f32` numbers in a line of the cache.
const LINE: usize = 16;

/// Numbers of a packed operand that are kept, at most.
const KEPT: usize = 16 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static OPERAND: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Memory for a packed operand, with whatever it held before.
pub(super) struct Memory {
    numbers: Vec<f32>,
    length: usize,
}

impl Memory {
    pub(super) fn take(length: usize) -> Self {
        let mut memory = OPERAND.with(RefCell::take);
        if memory.len() < length {
            memory = vec![0.0; length];
        }
        Self { numbers: memory, length }
    }
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.length]
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.length]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.numbers);
        if memory.len() <= KEPT {
            OPERAND.with(|kept| kept.replace(memory));
        }
    }
}

/// Lends `work` parts of the given lengths, each at the start of a line, with whatever they held before.
///
/// `work` must not wait for other work: a thread that waits takes on more, which would find the memory lent.
pub(super) fn with<const N: usize, R>(lengths: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let needed: usize = lengths.iter().map(|length| length.next_multiple_of(LINE)).sum();
    // Taken out and not borrowed: should it be lent already, the inner work gets memory of its own.
    let mut memory = SCRATCH.with(RefCell::take);
    if memory.len() < needed + LINE {
        memory = vec![0.0; needed + LINE];
    }
    let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let mut rest = &mut memory[skip..];
    let parts = lengths.map(|length| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(length.next_multiple_of(LINE));
        rest = behind;
        &mut part[..length]
    });
    let result = work(parts);
    SCRATCH.with(|kept| kept.replace(memory));
    result
}
