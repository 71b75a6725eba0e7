//! What a check changes about a host to which a plugin is connected already: its threads, and what becomes of a call.
//!
//! A library is connected once in a process, so these are no settings of the host but its state.

use super::{Failure, Result};

/// What a plugin asks of its host and may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Lease,
    Write,
    Grant,
}

/// What becomes of the call that is waited for.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It fails.
    Fail(Failure),
    /// It is answered, and the user wants to stop from then on.
    Cancel,
}

/// What holds until the next check.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// In place of the host's own number.
    pub(super) threads: Option<u32>,
    /// The call (of its kind, counted from 0) that has a fate.
    pub(super) fate: Option<(Call, u64, Fate)>,
    calls: [u64; 3],
    /// Calls of any kind that came after the one with the fate.
    pub(super) afterwards: u64,
    met: bool,
}

impl Conditions {
    /// How many calls of a kind there were.
    pub(super) fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }

    /// A call; tells whether the user wants to stop now.
    pub(super) fn meet(&mut self, call: Call) -> Result<bool> {
        let number = self.calls[call as usize];
        self.calls[call as usize] += 1;
        if self.met {
            self.afterwards += 1;
        }
        match &self.fate {
            Some((kind, place, fate)) if *kind == call && *place == number => {
                self.met = true;
                match fate {
                    Fate::Fail(failure) => Err(failure.clone()),
                    Fate::Cancel => Ok(true),
                }
            }
            _ => Ok(false),
        }
    }
}
