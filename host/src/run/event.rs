//! What happens during a run, as data; how it is shown is for [`crate::report`].

use crate::plan::RunPlan;

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// It happened to one of several runs.
    Of {
        /// The format and its level.
        run: &'a str,
        /// What.
        event: &'a Event<'a>,
    },
    /// The user should know this.
    Warning(&'a str),
    /// Weights are fetched first.
    Downloading {
        /// The model's address.
        from: &'a str,
        /// Bytes in all.
        bytes: u64,
        /// Files in all.
        files: usize,
        /// Bytes of which nothing is there yet.
        missing: u64,
    },
    /// So many bytes of them need not be fetched: they were there before.
    Kept {
        /// The number.
        bytes: u64,
    },
    /// So many bytes have arrived.
    Arrived {
        /// The number.
        bytes: u64,
    },
    /// So many bytes that were told of have to be fetched again.
    Lost {
        /// The number.
        bytes: u64,
    },
    /// A file is whole and in the cache.
    FileDownloaded {
        /// Its name.
        name: &'a str,
    },
    /// All weights are there.
    AllDownloaded,
    /// Work begins: so many weights in so many units.
    Started {
        /// Weights to be written in all.
        weights: u64,
        /// Units in all.
        units: usize,
    },
    /// Measuring begins, from which the real plan follows: so many weights in so many units, of which some were measured
    /// by an earlier run.
    Surveying {
        /// Weights to be measured in all.
        weights: u64,
        /// Units in all.
        units: usize,
        /// Units measured before.
        done: usize,
        /// Weights in these.
        weights_done: u64,
    },
    /// What was measured has led to the plan that is carried out.
    Chosen(&'a RunPlan),
    /// Models begin to be run: so many tokens through so many layers, those of all of them.
    Evaluating {
        /// Tokens of the text.
        tokens: u64,
        /// Layers, each of which all tokens go through.
        layers: u64,
        /// Tokens that go through a head.
        scored: u64,
    },
    /// So many more tokens have gone through a layer or a head.
    Computed {
        /// The number.
        tokens: u64,
    },
    /// Work of an earlier run is continued.
    Resuming {
        /// Units finished.
        done: usize,
        /// Units in all.
        of: usize,
        /// Weights in the finished units.
        weights: u64,
        /// The unit to go on with, or nothing if only the end is missing.
        next: Option<&'a str>,
    },
    /// Work of an earlier run is thrown away.
    Discarding {
        /// Why.
        reason: &'a str,
    },
    /// A unit is begun.
    UnitStarted {
        /// Its name.
        name: &'a str,
    },
    /// So many more weights are done.
    Progress {
        /// The number.
        weights: u64,
    },
    /// A unit is on the disk and in the journal.
    UnitCommitted {
        /// Its name.
        name: &'a str,
    },
    /// The finished files are being re-read.
    Checking,
    /// The output is in its place.
    Published,
}

/// Whoever wants to know. Called from several threads, and often: it has to be quick.
pub trait Events: Send + Sync {
    /// Takes an event.
    fn emit(&self, event: Event<'_>);
}
