//! Fuzzes model cards.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::work::CARD);
