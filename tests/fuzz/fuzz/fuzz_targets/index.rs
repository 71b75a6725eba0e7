//! Fuzzes the index over weight files.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::checkpoint::INDEX);
