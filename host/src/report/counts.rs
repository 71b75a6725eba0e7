//! How much is done, of each of the runs that go on side by side; of one, or of measuring, under no name.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The counts of all runs.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<BTreeMap<String, Count>>);

/// What a run has to do, and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Weights to be worked on; tokens through layers where models are run.
    pub(super) weights: u64,
    /// Of these, those that are done.
    pub(super) done: u64,
    /// Of `done`, what an earlier run did: it says nothing about this one's speed.
    pub(super) inherited: u64,
    pub(super) units: u64,
    /// Units that are on the disk.
    pub(super) committed: u64,
}

impl Counts {
    /// Changes what is counted of a run.
    pub(super) fn change(&self, run: &str, change: impl FnOnce(&mut Count)) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(run) {
            return change(count);
        }
        change(counts.entry(run.to_owned()).or_default());
    }

    /// Takes what is done for done before: speed is that of what comes.
    pub(super) fn rebase(&self) {
        self.lock().values_mut().for_each(|count| count.inherited = count.done);
    }

    /// All runs together.
    pub(super) fn sum(&self) -> Count {
        self.lock().values().fold(Count::default(), |sum, count| Count {
            weights: sum.weights.saturating_add(count.weights),
            done: sum.done.saturating_add(count.done),
            inherited: sum.inherited.saturating_add(count.inherited),
            units: sum.units.saturating_add(count.units),
            committed: sum.committed.saturating_add(count.committed),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_run_begins_anew_leaves_the_others() {
        let counts = Counts::default();
        counts.change("a", |count| count.weights = 10);
        counts.change("b", |count| *count = Count { weights: 5, done: 5, inherited: 1, units: 2, committed: 2 });
        counts.change("a", |count| count.done += 3);
        let sum = Count { weights: 15, done: 8, inherited: 1, units: 2, committed: 2 };
        assert_eq!(counts.sum(), sum);
        counts.change("a", |count| *count = Count { weights: 20, ..Count::default() });
        assert_eq!(counts.sum(), Count { weights: 25, done: 5, ..sum });
        counts.rebase();
        assert_eq!(counts.sum(), Count { weights: 25, done: 5, inherited: 5, ..sum });
    }
}
