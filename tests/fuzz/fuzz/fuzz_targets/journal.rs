//! Fuzzes the journal of a run.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::work::JOURNAL);
