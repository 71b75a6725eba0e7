//! Fuzzes the manifest in a plugin library.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::work::MANIFEST);
