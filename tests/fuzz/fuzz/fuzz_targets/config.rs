//! Fuzzes the config of a model.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::checkpoint::CONFIG);
