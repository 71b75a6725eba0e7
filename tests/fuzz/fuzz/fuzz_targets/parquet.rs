//! Fuzzes data as parquet files.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::data::PARQUET);
