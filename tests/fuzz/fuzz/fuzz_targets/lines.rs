//! Fuzzes data as JSON lines.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::data::LINES);
